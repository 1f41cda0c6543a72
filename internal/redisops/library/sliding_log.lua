-- SlidingLog: the time of every request of the last window is kept, so the limit holds in any window, exactly.
--
-- KEYS:  the counter (a hash); the limit's field holds "S<window ms> <sequence> <time of the newest entry>". The log
--        <counter>:<limit name> (a sorted set): scores are microseconds, members the numbers of the sequence.
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. Entries that lie in the future (the clock went back) count as made now, and are
--        re-dated to now by the next decision that may write.
--
-- An entry of time t counts while t > now - window. The functions are described in cells.lua.

-- By cell: the number of the last entry.
local sequence = {}

local function new_sliding_log()
  local sliding_log = {}

  -- By cell: whether the log belongs to no state and has to go.
  local foreign = {}

  function sliding_log.prepare(limit)
    limit.signature = append('S', limit.windowMs) .. ' '
    limit.pattern = '^' .. limit.signature .. '([0-9]+) ([0-9]+)$'
    limit.suffix = ':' .. limit.name
    limit.logTTL = append('', limit.windowMs)
    limit.keep = ceil(limit.windowMs * 1.25) + 1000
  end

  function sliding_log.read(limit, i, raw, now, key)
    local log = key .. limit.suffix
    local n = try('ZCOUNT', log, append('(', now - limit.window), '+inf')
    if type(n) == 'table' then
      return unreadable(n, log)
    end
    used[i], at[i], sequence[i], stale[i], foreign[i], known_state[i] = n, 0, 0, false, false, false
    local seq, newest
    if raw then
      seq, newest = match(raw, limit.pattern)
      seq, newest = integer(seq), integer(newest)
    end
    if not newest or not seq or seq > MAX_INTEGER / 2 then
      -- Nothing tells what these entries are: of another window, or left by a lost counter.
      used[i], foreign[i] = 0, n > 0
    else
      sequence[i], known_state[i] = seq, true
      if n > 0 then
        at[i], stale[i] = newest, newest > now
      end
    end
  end

  -- leaves gives the time until the k-th oldest entry that counts leaves the window, in microseconds.
  local function leaves(limit, now, key, k)
    local entry = call('ZRANGEBYSCORE', key .. limit.suffix, append('(', now - limit.window), '+inf',
      'WITHSCORES', 'LIMIT', k - 1, 1)
    return min(tonumber(entry[2]), now) + limit.window - now
  end

  function sliding_log.check(limit, i, now, cost, key)
    local n, room = used[i], limit.capacity - used[i]
    if cost <= room and cost > 0 then
      return room - cost, limit.window, 0
    end
    local reset = 0
    if n > 0 then
      reset = max(min(at[i], now) + limit.window - now, 0)
    end
    if cost <= room then
      return room, reset, 0
    end
    return max(room, 0), reset, cost > limit.capacity and limit.window or leaves(limit, now, key, cost - room)
  end

  -- redate gives the entries of the future the current time.
  local function redate(log, now)
    local score = append('', now)
    while true do
      local entries = call('ZRANGEBYSCORE', log, append('(', now), '+inf', 'LIMIT', 0, BATCH)
      if #entries == 0 then
        return
      end
      local add = {}
      for j = 1, #entries do
        add[2 * j - 1], add[2 * j] = score, entries[j]
      end
      call('ZADD', log, unpack(add))
    end
  end

  function sliding_log.write(limit, i, now, cost, key)
    local log, seq = key .. limit.suffix, sequence[i]
    local score = append('', now)
    if foreign[i] then
      call('DEL', log)
    else
      call('ZREMRANGEBYSCORE', log, '-inf', append('', now - limit.window))
      if stale[i] then
        redate(log, now)
      end
    end
    if cost == 1 then
      call('ZADD', log, score, append('', seq + 1))
    else
      for from = 1, cost, BATCH do
        local add, n = {}, 0
        for j = from, min(from + BATCH - 1, cost) do
          add[n + 1], add[n + 2] = score, append('', seq + j)
          n = n + 2
        end
        call('ZADD', log, unpack(add))
      end
    end
    call('PEXPIRE', log, limit.logTTL)
    return append(append(limit.signature, seq + cost) .. ' ', cost > 0 and now or min(at[i], now)),
      limit.windowMs,
      limit.keep
  end

  -- A charge's entries have consecutive numbers, the highest of them is last. A counter that was lost in between has given
  -- its number to a newer one. Where nothing is known of a charge, the oldest go, which are never newer than those that
  -- were meant.
  function sliding_log.give(limit, i, now, cost, key, charged, last)
    local log = key .. limit.suffix
    if foreign[i] then
      return
    end
    call('ZREMRANGEBYSCORE', log, '-inf', append('', now - limit.window))
    local dated = last and tonumber(call('ZSCORE', log, append('', last)) or nil)
    if dated and dated <= charged then
      for from = last - cost + 1, last, BATCH do
        local numbers = {}
        for number = from, min(from + BATCH - 1, last) do
          numbers[#numbers + 1] = append('', number)
        end
        call('ZREM', log, unpack(numbers))
      end
    elseif not charged and used[i] > 0 then
      call('ZREMRANGEBYRANK', log, 0, min(cost, used[i]) - 1)
    end
    used[i] = call('ZCARD', log)
    local newest = call('ZRANGE', log, -1, -1, 'WITHSCORES')
    at[i] = tonumber(newest[2]) or 0
  end

  return sliding_log
end
