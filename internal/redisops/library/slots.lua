-- Slots: the calls of a Concurrency.
--
-- KEYS:  the counter, which may be followed by the key of its slots; see concurrency.lua.
-- ARGV:  acquire: the policy, the slot's id, how long it is held at most in milliseconds ("": the policy's slotTTL, which
--        is also the longest), the values, and "door" where the policy asks for it. release: the policy, the slot's id,
--        the values.
-- Reply: a row as of limit.lua, with the slot's id as its id. A slot that is held already is held for another TTL. To
--        release what nobody holds has the reason absent.
-- Time:  redis.call('TIME'), once.

-- read_slots gives the number of slots that are held and when the one asked for and the last one expire (nil: not held),
-- or nil and an error reply. What stands at the keys and is not ours counts as nothing. The last two tell whether the slots
-- have to go, and what the row says of the state before (see limit.lua).
local function read_slots(limit, key, id, now)
  all_here({key, key .. limit.suffix})
  local state = try('HGET', key, limit.name)
  if type(state) == 'table' then
    return nil, unreadable(state, key)
  end
  local log = key .. limit.suffix
  local n = try('ZCOUNT', log, append('(', now), '+inf')
  if type(n) == 'table' then
    return nil, unreadable(n, log)
  end
  if state ~= 'N' then
    return 0, nil, nil, n > 0, not state and 1 or is_ours(state) and 0 or 2
  end
  local expires = tonumber(call('ZSCORE', log, id) or nil)
  if expires and expires <= now then
    expires = nil
  end
  local last = call('ZRANGE', log, -1, -1, 'WITHSCORES')
  return n, expires, tonumber(last[2]), false, 0
end

-- shorten lets no slot expire later than that.
local function shorten(log, latest)
  local score = append('', latest)
  while true do
    local ids = call('ZRANGEBYSCORE', log, append('(', latest), '+inf', 'LIMIT', 0, BATCH)
    if #ids == 0 then
      return
    end
    local add = {}
    for j = 1, #ids do
      add[2 * j - 1], add[2 * j] = score, ids[j]
    end
    call('ZADD', log, unpack(add))
  end
end

-- frees gives how long until so many of the slots have expired.
local function frees(limit, key, now, count)
  local slot = call('ZRANGEBYSCORE', key .. limit.suffix, append('(', now), '+inf', 'WITHSCORES', 'LIMIT', count - 1, 1)
  return min(tonumber(slot[2]), now + limit.ttl) - now
end

-- tend_slots does what a refusal has to write: slots that expire too late, and TTLs that are missing.
local function tend_slots(limit, key, now, last)
  local log = key .. limit.suffix
  if last and last > now + limit.ttl then
    shorten(log, now + limit.ttl)
  end
  if call('PTTL', log) == -1 then
    call('PEXPIRE', log, append('', limit.slotTtlMs))
  end
  if call('PTTL', key) == -1 then
    call('PEXPIRE', key, append('', limit.keep))
  end
end

-- take writes a slot.
local function take(limit, key, id, now, ttl, not_ours)
  local log = key .. limit.suffix
  if not_ours then
    call('DEL', log)
  else
    call('ZREMRANGEBYSCORE', log, '-inf', append('', now))
    shorten(log, now + limit.ttl)
  end
  call('ZADD', log, append('', now + ttl), id)
  call('HSET', key, limit.name, 'N')
  local need = ceil(ttl / 1000)
  if call('PTTL', log) < need then
    call('PEXPIRE', log, append('', need))
  end
  if call('PTTL', key) < need then
    call('PEXPIRE', key, append('', need + 1000))
  end
end

-- slot_call checks a call: it gives the policy, the budget of the subject, and how long the slot is to be held at most, in
-- microseconds (nil: nothing was said); or nil and an error reply. Only who acquires says that.
local function slot_call(keys, args, resolve, acquires)
  local p, failure = resolve(args[1] or '')
  failure = failure or wrong_policy(p, true) or wrong_keys(p, keys)
  if failure then
    return nil, failure
  end
  local ttl, behind = nil, 2
  if not args[2] or not is_id(args[2]) then
    return nil, refuse('BADARG', 'slot id: want 1 to 128 visible ASCII characters')
  end
  if acquires then
    behind = 3
    ttl = integer(match(args[3] or '', '^[1-9][0-9]*$'))
    if not ttl and args[3] ~= '' then
      return nil, refuse('BADARG', 'ttl is "' .. shown(args[3] or '') .. '": want milliseconds, at least 1, or nothing for the policy\'s')
    end
  end
  local wrong = wrong_values(p, args, behind)
  if wrong then
    return nil, refuse('BADARG', wrong)
  end
  failure = wrong_end(p, args, behind + p.values + 1, acquires)
  if failure then
    return nil, failure
  end
  return p, budget_of(p, args, behind), ttl and min(ttl * 1000, MAX_INTEGER)
end

local function slot_row(b, remaining, reset, retry, reason, id)
  local slots = b[1]
  return {
    retry == 0 and 1 or 0, slots.capacity, max(remaining, 0), ceil(reset / 1000), ceil(retry / 1000), slots.name, reason, id,
    b.override, 0,
  }
end

-- slot_acquire is the whole of penstock_slot_acquire.
local function slot_acquire(keys, args, resolve)
  local p, b, ttl = slot_call(keys, args, resolve, true)
  if not p then
    return b
  end
  local id = args[2]
  if b.unlimited then
    return unlimited(b, id)
  end
  local slots, key, now = b[1], keys[1], clock()
  local n, held, last, not_ours, before = read_slots(slots, key, id, now)
  if not n then
    return held
  end
  ttl = min(ttl or slots.ttl, slots.ttl)
  local reset = 0
  if last then
    reset = min(max(last - now, 0), slots.ttl)
  end
  if held or n < slots.capacity then
    take(slots, key, id, now, ttl, not_ours)
    if held then
      -- The one that expired last may have been this one, and be held for less now.
      reset = tonumber(call('ZRANGE', key .. slots.suffix, -1, -1, 'WITHSCORES')[2]) - now
    end
    local row = slot_row(b, slots.capacity - n - (held and 0 or 1), max(reset, ttl), 0, 'ok', id)
    row[10] = before
    return row
  end
  tend_slots(slots, key, now, last)
  if slots.capacity == 0 then
    return shadowed(p, key, slot_row(b, 0, reset, slots.ttl, 'blocked', id))
  end
  return shadowed(p, key, slot_row(b, 0, reset, frees(slots, key, now, n - slots.capacity + 1), 'limit', id))
end

-- slot_release is the whole of penstock_slot_release.
local function slot_release(keys, args, resolve)
  local p, b = slot_call(keys, args, resolve, false)
  if not p then
    return b
  end
  local id = args[2]
  if b.unlimited then
    return unlimited(b, id)
  end
  local slots, key, now = b[1], keys[1], clock()
  local n, held, last = read_slots(slots, key, id, now)
  if not n then
    return held
  end
  local log, reason = key .. slots.suffix, 'absent'
  if held then
    call('ZREM', log, id)
    n, reason = n - 1, 'ok'
    last = tonumber(call('ZRANGE', log, -1, -1, 'WITHSCORES')[2])
  end
  return slot_row(b, slots.capacity - n, n > 0 and min(last - now, slots.ttl) or 0, 0, reason, id)
end
