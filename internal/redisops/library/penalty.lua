-- Penalty: a subject that goes on after it was denied is blocked.
--
-- KEYS:  the counter (a hash); the field "!penalty", which no limit can be named, holds "<denials> <time of the first of
--        them> <end of the last block> <length of the last block>".
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. Times that lie further in the future than they can (the clock went back) are
--        drawn near.
--
-- Denials are counted from the first for as long as within; the last of them begins a block. A block that begins within
-- max after the end of the one before lasts twice as long, at most max. What a block refuses is not counted again.

local PENALTY_FIELD = '!penalty'

-- By counter: whether even a denial that is not counted has to write that.
local redated = {}

local function new_penalty()
  local penalty = {}

  -- By counter: the denials that count and since when, the end and the length of the last block.
  local denials, since, blocked_until, block = {}, {}, {}, {}

  function penalty.prepare(d)
    local pen = {denials = d.denials, within = d.withinMs * 1000, length = d.forMs * 1000, longest = d.maxMs * 1000}
    pen.keep = max(d.withinMs, 2 * d.maxMs) + 1000
    return pen
  end

  function penalty.read(pen, k, raw, now)
    denials[k], since[k], blocked_until[k], block[k], redated[k] = 0, now, 0, 0, false
    if not raw then
      return
    end
    local count, first, till, length = match(raw, '^([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+)$')
    count, first, till, length = integer(count), integer(first), integer(till), integer(length)
    if not count or not first or not till or not length then
      return
    end
    if first > now or till > now + pen.longest then
      first, till, redated[k] = min(first, now), min(till, now + pen.longest), true
    end
    if now - first < pen.within then
      denials[k], since[k] = count, first
    end
    if now - till < pen.longest then
      blocked_until[k], block[k] = till, min(length, pen.longest)
    end
  end

  -- rest gives how long the subject is blocked still, in microseconds.
  function penalty.rest(k, now)
    return max(blocked_until[k] - now, 0)
  end

  -- deny counts a denial.
  function penalty.deny(pen, k, now)
    if denials[k] == 0 then
      since[k] = now
    end
    denials[k] = denials[k] + 1
    if denials[k] >= pen.denials then
      block[k] = block[k] == 0 and pen.length or min(2 * block[k], pen.longest)
      denials[k], blocked_until[k] = 0, now + block[k]
    end
  end

  -- matters tells whether there is anything to write.
  function penalty.matters(k)
    return denials[k] > 0 or blocked_until[k] > 0 or redated[k]
  end

  -- write gives the field's new text, and the least TTL in milliseconds that it needs.
  function penalty.write(pen, k, now)
    local text = append(append('', denials[k]) .. ' ', since[k])
    text = append(append(text .. ' ', blocked_until[k]) .. ' ', block[k])
    return text, ceil(max(since[k] + pen.within - now, blocked_until[k] + pen.longest - now, 0) / 1000)
  end

  return penalty
end
