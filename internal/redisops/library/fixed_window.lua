-- FixedWindow: requests are counted in windows that begin at multiples of the window since 1970, or by a calendar.
--
-- KEYS:  the counter (a hash); the limit's field holds "F<window ms> <begin of the window ms> <used>", of a calendar
--        "K<calendar>/<time zone> <begin ms> <used>".
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. A stored window that lies in the future (the clock went back) counts as the
--        current one.
--
-- The functions are described in cells.lua.

local function new_fixed_window()
  local fixed_window = {}

  function fixed_window.prepare(limit)
    limit.signature = append('F', limit.windowMs) .. ' '
    if limit.calendar then
      -- A policy that lacks the zone's offsets is refused here, and not when it decides.
      assert(#limit.offsets > 0)
      limit.signature = 'K' .. limit.calendar .. '/' .. limit.timeZone .. ' '
    end
    limit.pattern = '^' .. gsub(limit.signature, '%W', '%%%0') .. '([0-9]+) ([0-9]+)$'
    limit.begin, limit.finish = 0, 0
    limit.keep = limit.windowMs + 1000
  end

  function fixed_window.read(limit, i, raw, now)
    if now < limit.begin or now >= limit.finish then
      -- All counters share the current window, and its text.
      if limit.calendar then
        limit.begin, limit.finish = calendar_window(limit, now)
      else
        limit.begin = now - now % limit.window
        limit.finish = limit.begin + limit.window
      end
      limit.head = append(limit.signature, limit.begin / 1000) .. ' '
    end
    used[i], stale[i], known_state[i] = 0, false, false
    if not raw then
      return
    end
    local head = limit.head
    if sub(raw, 1, #head) == head then
      local n = integer(match(raw, '^[0-9]+$', #head + 1))
      used[i], known_state[i] = n or 0, n ~= nil
      return
    end
    local stored, n = match(raw, limit.pattern)
    stored, n = integer(stored), integer(n)
    known_state[i] = stored ~= nil and n ~= nil
    if known_state[i] and stored * 1000 > limit.begin then
      used[i], stale[i] = n, true
    end
  end

  function fixed_window.check(limit, i, now, cost)
    local n, room = used[i], limit.capacity - used[i]
    local rest = limit.finish - now
    if cost > room then
      return max(room, 0), n > 0 and rest or 0, cost > limit.capacity and limit.window or rest
    end
    return room - cost, n + cost > 0 and rest or 0, 0
  end

  function fixed_window.write(limit, i, now, cost)
    local need = ceil((limit.finish - now) / 1000)
    return append(limit.head, used[i] + cost), need, need + 1000
  end

  function fixed_window.give(limit, i, _, cost, _, charged)
    if not charged or charged >= limit.begin then
      used[i] = max(used[i] - cost, 0)
    end
  end

  return fixed_window
end
