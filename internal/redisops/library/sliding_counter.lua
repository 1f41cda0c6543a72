-- SlidingCounter: requests are counted in fixed windows, and the window before counts by the share of it that lies in
-- the last window: as if its requests had been spread evenly.
--
-- KEYS:  the counter (a hash); the limit's field holds "C<window ms> <begin of the window ms> <used in it> <used in the
--        window before>".
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds, counted in milliseconds. A stored window that lies in the future (the clock
--        went back) counts as the current one.
--
-- The share is counted in 2^20 steps and rounded up, as is what it makes of the requests, so the estimate is never below
-- that of real numbers. Policies have at most 2^33 requests, and windows less than 2^32 ms: products are below 2^53. The
-- functions are described in cells.lua.

local function new_sliding_counter()
  local sliding_counter = {}

  -- By cell: what was used in the window before.
  local before = {}

  local STEPS = 1048576

  -- No window counts more: the bound of a policy's requests.
  local MOST = 8589934592

  -- weighted gives what requests of a window that ended that long ago, in milliseconds, count for.
  local function weighted(limit, requests, elapsed)
    return ceil(requests * ceil((limit.windowMs - elapsed) * STEPS / limit.windowMs) / STEPS)
  end

  -- fits gives after how many milliseconds of the next window requests of this one, more than room, count for room at most.
  local function fits(limit, requests, room)
    return limit.windowMs - floor(floor(room * STEPS / requests) * limit.windowMs / STEPS)
  end

  function sliding_counter.prepare(limit)
    limit.signature = append('C', limit.windowMs) .. ' '
    limit.pattern = '^' .. limit.signature .. '([0-9]+) ([0-9]+) ([0-9]+)$'
    limit.keep = 2 * limit.windowMs + 1000
  end

  function sliding_counter.read(limit, i, raw, now)
    local ms = floor(now / 1000)
    local begin = ms - ms % limit.windowMs
    at[i], used[i], before[i], stale[i], known_state[i] = begin, 0, 0, false, false
    if not raw then
      return
    end
    local stored, n, m = match(raw, limit.pattern)
    stored, n, m = integer(stored), integer(n), integer(m)
    if not stored or not n or not m or n > MOST or m > MOST then
      return
    end
    known_state[i] = true
    if stored >= begin then
      used[i], before[i], stale[i] = n, m, stored > begin
    elseif stored == begin - limit.windowMs then
      before[i] = n
    end
  end

  -- waits gives how long, in milliseconds from a time of this window, until so much has room.
  local function waits(limit, i, elapsed, cost)
    local room = limit.capacity - cost - used[i]
    if room >= 0 then
      return fits(limit, before[i], room) - elapsed
    end
    return limit.windowMs - elapsed + fits(limit, used[i], limit.capacity - cost)
  end

  function sliding_counter.check(limit, i, now, cost)
    local window, elapsed = limit.windowMs, floor(now / 1000) - at[i]
    -- From here to the end of that millisecond.
    local rest = now - (at[i] + elapsed) * 1000
    local sum = used[i] + weighted(limit, before[i], elapsed)
    local room = limit.capacity - sum
    local allowed = cost <= room
    local reset = 0
    if used[i] > 0 or (allowed and cost > 0) then
      reset = (2 * window - elapsed) * 1000 - rest
    elseif before[i] > 0 then
      reset = (window - elapsed) * 1000 - rest
    end
    if allowed then
      return room - cost, reset, 0
    elseif cost > limit.capacity then
      return max(room, 0), reset, limit.window
    end
    return max(room, 0), reset, waits(limit, i, elapsed, cost) * 1000 - rest
  end

  function sliding_counter.write(limit, i, now, cost)
    local text = append(append(append(limit.signature, at[i]) .. ' ', used[i] + cost) .. ' ', before[i])
    local need = 2 * limit.windowMs - (floor(now / 1000) - at[i])
    return text, need, need + 1000
  end

  function sliding_counter.give(limit, i, _, cost, _, charged)
    if not charged then
      local here = min(cost, used[i])
      used[i] = used[i] - here
      before[i] = max(before[i] - (cost - here), 0)
    elseif charged >= at[i] * 1000 then
      used[i] = max(used[i] - cost, 0)
    elseif charged >= (at[i] - limit.windowMs) * 1000 then
      before[i] = max(before[i] - cost, 0)
    end
  end

  return sliding_counter
end
