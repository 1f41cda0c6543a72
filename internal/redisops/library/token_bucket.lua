-- TokenBucket: up to burst tokens, refilled evenly by requests tokens per window.
--
-- KEYS:  the counter (a hash); the limit's field holds "T<window ms> <used> <tick>".
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds, counted in ticks of the policy's tickUs. A tick in the future (the clock went
--        back) counts as now.
--
-- What is used is kept in token × ticks of a window, so a tick refills the integer requests and nothing is rounded,
-- ever. Products stay within 2^53, because policies have a burst of at most 2^53 / ticks per window. The functions are
-- described in cells.lua.

local function new_token_bucket()
  local token_bucket = {}

  -- until_refilled gives how long, in microseconds from now, until that much less is used.
  local function until_refilled(limit, i, now, units)
    if limit.requests == 0 then
      return limit.window
    end
    return min(ceil(units / limit.requests) * limit.tickUs - (now - at[i] * limit.tickUs), MAX_INTEGER)
  end

  function token_bucket.prepare(limit)
    limit.unit = limit.window / limit.tickUs
    limit.signature = append('T', limit.windowMs) .. ' '
    limit.pattern = '^' .. limit.signature .. '([0-9]+) ([0-9]+)$'
    limit.capacity = limit.requests == 0 and 0 or limit.burst
    limit.keep = limit.windowMs + 1000
    if limit.requests > 0 then
      limit.keep = ceil(min(ceil(limit.burst * limit.unit / limit.requests) * limit.tickUs, MAX_INTEGER) / 1000) + 1000
    end
  end

  function token_bucket.read(limit, i, raw, now)
    local tick = floor(now / limit.tickUs)
    at[i], used[i], stale[i], known_state[i] = tick, 0, false, false
    if not raw then
      return
    end
    local units, stored = match(raw, limit.pattern)
    units, stored = integer(units), integer(stored)
    if not units or not stored then
      return
    end
    known_state[i] = true
    if stored > tick then
      stale[i] = true
    else
      -- Beyond 2^53 the product is not exact, but then certainly larger than units.
      units = max(units - (tick - stored) * limit.requests, 0)
    end
    local full = limit.capacity * limit.unit
    if units > full and limit.requests > 0 then
      -- The burst was lowered: the bucket is empty, not in debt for longer than a bucket of this size can be. That has to
      -- be kept even by a denial, else it would count down the old debt.
      units, stale[i] = full, true
    end
    used[i] = units
  end

  function token_bucket.check(limit, i, now, cost)
    local capacity, unit, units = limit.capacity, limit.unit, used[i]
    if cost > capacity then
      return max(floor((capacity * unit - units) / unit), 0),
        units > 0 and until_refilled(limit, i, now, units) or 0,
        limit.window
    end
    local over = units - (capacity - cost) * unit
    if over > 0 then
      return max(floor((capacity * unit - units) / unit), 0),
        until_refilled(limit, i, now, units),
        until_refilled(limit, i, now, over)
    end
    units = units + cost * unit
    return floor((capacity * unit - units) / unit), units > 0 and until_refilled(limit, i, now, units) or 0, 0
  end

  function token_bucket.write(limit, i, now, cost)
    local units = used[i] + cost * limit.unit
    return append(append(limit.signature, units) .. ' ', at[i]),
      ceil(until_refilled(limit, i, now, units) / 1000),
      limit.keep
  end

  -- Of a charge whose time is known, what was refilled since is not given back: without the charge there would have been
  -- less to refill.
  function token_bucket.give(limit, i, now, cost, _, charged)
    local units = cost * limit.unit
    if charged then
      units = max(units - max(floor(now / limit.tickUs) - floor(charged / limit.tickUs), 0) * limit.requests, 0)
    end
    used[i] = max(used[i] - units, 0)
  end

  return token_bucket
end
