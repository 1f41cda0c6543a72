-- The decision: all limits of all charges are checked, then all charged or none.
--
-- KEYS:  see charges.lua.
-- ARGV:  see charges.lua.
-- Reply: a row for each charge: {allowed 0/1, limit, remaining, reset ms, retry after ms, binding limit, reason, id}.
--        What is charged twice in one call is counted twice: the second row speaks of both together.
--        PENSTOCK_WRONGTYPE <key> before anything was written when a key of ours holds something else.
-- Time:  redis.call('TIME'), once.
--
-- Everything that may be touched is read before the first write: a key that moved to another node of a cluster then
-- fails the call before it did a part of its work.

-- read_counter loads the slots of a counter, or gives an error reply.
local function read_counter(p, key, slot, now)
  if p.count == 1 then
    local raw = try('HGET', key, p.fields[1])
    if type(raw) == 'table' then
      return unreadable(raw, key)
    end
    return p[1].read(p[1], slot + 1, raw, now, key)
  end
  local raws = try('HMGET', key, unpack(p.fields))
  if raws.err then
    return unreadable(raws, key)
  end
  for j = 1, p.count do
    local failure = p[j].read(p[j], slot + j, raws[j], now, key)
    if failure then
      return failure
    end
  end
end

local function row_of(limit, remaining, reset, retry)
  if retry == 0 then
    return {1, limit.capacity, remaining, ceil(reset / 1000), 0, limit.name, 'ok', ''}
  end
  return {0, limit.capacity, remaining, ceil(reset / 1000), ceil(retry / 1000), limit.name, 'limit', ''}
end

-- decide gives the row for a cost. On a denial the limit that takes longest to have room binds, else the one with the
-- fewest requests left, of those the one that is whole again last.
local function decide(p, key, slot, now, cost)
  local binding = p[1]
  local remaining, reset, retry = binding.check(binding, slot + 1, now, cost, key)
  for j = 2, p.count do
    local limit = p[j]
    local left, whole, wait = limit.check(limit, slot + j, now, cost, key)
    if wait > retry or (retry == 0 and (left < remaining or (left == remaining and whole > reset))) then
      binding, remaining, reset, retry = limit, left, whole, wait
    end
  end
  return row_of(binding, remaining, reset, retry)
end

-- write_counter charges a counter. The TTL is set in the same step, and again when it is missing or too short for what
-- the state needs.
local function write_counter(p, key, slot, now, cost)
  local need, keep = 0, 0
  if p.count == 1 then
    local limit, state = p[1]
    state, need, keep = limit.write(limit, slot + 1, now, cost, key)
    call('HSET', key, limit.name, state)
  else
    local fields = {}
    for j = 1, p.count do
      local limit = p[j]
      local state, n, k = limit.write(limit, slot + j, now, cost, key)
      fields[2 * j - 1], fields[2 * j] = limit.name, state
      need, keep = max(need, n), max(keep, k)
    end
    call('HSET', key, unpack(fields))
  end
  if call('PTTL', key) < need then
    call('PEXPIRE', key, append('', keep))
  end
end

-- tend does what a denial has to write: times that lie in the future, and TTLs that are missing.
local function tend(p, key, slot, now)
  for j = 1, p.count do
    if stale[slot + j] then
      write_counter(p, key, slot, now, 0)
      break
    end
  end
  if call('PTTL', key) == -1 then
    call('PEXPIRE', key, append('', p.keep))
  end
  for _, limit in pairs(p.logs) do
    if call('PTTL', key .. limit.suffix) == -1 then
      call('PEXPIRE', key .. limit.suffix, limit.logTTL)
    end
  end
end

-- limit is the whole of penstock_limit and, readonly, penstock_limit_peek: one charge. resolve gives the policy for its
-- argument, or nil and an error reply. It is limit_many for one, without the arrays: what most calls are.
local function limit(keys, args, resolve, readonly)
  local p, failure = resolve(args[1] or '')
  if not p then
    return failure
  end
  failure = wrong_charge(p, keys, args)
  if failure then
    return failure
  end
  local key, cost, now = keys[1], tonumber(args[2]), clock()
  failure = read_counter(p, key, 0, now)
  if failure then
    return failure
  end
  local row = decide(p, key, 0, now, cost)
  if cost > 0 and not readonly then
    if row[1] == 1 then
      write_counter(p, key, 0, now, cost)
    else
      tend(p, key, 0, now)
    end
  end
  return row
end

-- limit_many is the whole of penstock_limit_many: rows.
local function limit_many(keys, args, resolve)
  local charges, counters = read_charges(keys, args, resolve)
  if not charges then
    return counters
  end
  local now = clock()
  for k = 1, counters do
    local failure = read_counter(policy_of[k], key_of[k], first_slot[k], now)
    if failure then
      return failure
    end
  end

  local rows, allowed = {}, true
  for c = 1, charges do
    local k = counter_of[c]
    local cost = charged[k] + cost_of[c]
    rows[c] = decide(policy_of[k], key_of[k], first_slot[k], now, cost)
    if rows[c][1] == 1 then
      charged[k] = cost
    else
      allowed = false
    end
  end

  for k = 1, counters do
    if asked[k] > 0 and allowed then
      write_counter(policy_of[k], key_of[k], first_slot[k], now, charged[k])
    elseif asked[k] > 0 then
      tend(policy_of[k], key_of[k], first_slot[k], now)
    end
  end
  return rows
end
