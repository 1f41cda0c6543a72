-- FixedWindow: requests are counted in windows that begin at multiples of the window since 1970.
--
-- KEYS:  the counter (a hash); the limit's field holds "F<window ms> <begin of the window ms> <used>".
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. A stored window that lies in the future (the clock went back) counts as the
--        current one.

local fixed_window = {}

function fixed_window.prepare(limit)
  limit.signature = append('F', limit.windowMs) .. ' '
  limit.pattern = '^' .. limit.signature .. '([0-9]+) ([0-9]+)$'
  limit.begin = -1
  limit.keep = limit.windowMs + 1000
end

function fixed_window.read(limit, i, raw, now)
  local begin = now - now % limit.window
  if limit.begin ~= begin then
    -- All counters share the text of the current window.
    limit.begin = begin
    limit.head = append(limit.signature, begin / 1000) .. ' '
  end
  at[i], used[i], stale[i] = begin, 0, false
  if not raw then
    return
  end
  local head = limit.head
  if sub(raw, 1, #head) == head then
    used[i] = integer(match(raw, '^[0-9]+$', #head + 1)) or 0
    return
  end
  local stored, n = match(raw, limit.pattern)
  stored, n = integer(stored), integer(n)
  if n and stored and stored * 1000 > begin then
    used[i], stale[i] = n, true
  end
end

function fixed_window.check(limit, i, now, cost)
  local n, room = used[i], limit.capacity - used[i]
  local rest = at[i] + limit.window - now
  if cost > room then
    return max(room, 0), n > 0 and rest or 0, cost > limit.capacity and limit.window or rest
  end
  return room - cost, n + cost > 0 and rest or 0, 0
end

function fixed_window.write(limit, i, now, cost)
  local need = ceil((at[i] + limit.window - now) / 1000)
  return append(limit.head, used[i] + cost), need, need + 1000
end
