-- The decision: all limits of all charges are checked, then all charged or none.
--
-- KEYS:  see charges.lua.
-- ARGV:  see charges.lua.
-- Reply: a row for each charge: {allowed 0/1, limit, remaining, reset ms, retry after ms, binding limit, reason, id,
--        override, new}. limit is -1 for a subject without limits. reason is ok, limit, blocked (a limit of 0 requests),
--        penalty, or shadow (allowed, and would else have been denied). override is which of the policy's applied, 0 for
--        none. new is 1 when the subject had no state before, 2 when what stood there is none of ours and was replaced.
--        What is charged twice in one call is counted twice: the second row speaks of both together.
--        PENSTOCK_WRONGTYPE <key> before anything was written when a key of ours holds something else.
-- Time:  redis.call('TIME'), once.
--
-- Everything that may be touched is read before the first write: a key that moved to another node of a cluster then
-- fails the call before it did a part of its work. What the caller need not name is looked for first; see all_here.

-- By counter: whether nothing was there, and whether something was that is no state of ours.
local fresh, garbled = {}, {}

-- read_counter loads the cells of counter k, or gives an error reply.
local function read_counter(p, b, key, cell, k, now)
  if b.unlimited then
    return nil
  elseif b.count == 1 and not p.penalty then
    local raw = try('HGET', key, b.fields[1])
    if type(raw) == 'table' then
      return unreadable(raw, key)
    end
    fresh[k] = not raw
    local failure = b[1].read(b[1], cell + 1, raw, now, key)
    garbled[k] = raw and not known_state[cell + 1] and not is_ours(raw)
    return failure
  end
  local raws = try('HMGET', key, unpack(b.fields))
  if raws.err then
    return unreadable(raws, key)
  end
  fresh[k], garbled[k] = true, false
  for j = 1, b.count do
    local raw = raws[j]
    fresh[k] = fresh[k] and not raw
    local failure = b[j].read(b[j], cell + j, raw, now, key)
    if failure then
      return failure
    end
    garbled[k] = garbled[k] or (raw and not known_state[cell + j] and not is_ours(raw))
  end
  if p.penalty then
    penalty.read(p.penalty, k, raws[b.count + 1], now)
  end
end

-- novelty gives what the row of a charge says of the state before.
local function novelty(k)
  return fresh[k] and 1 or garbled[k] and 2 or 0
end

local function unlimited(b, id)
  return {1, -1, MAX_INTEGER, 0, 0, '', 'ok', id, b.override, 0}
end

-- decide gives the row for a cost. On a denial the limit that takes longest to have room binds, else the one with the
-- fewest requests left, of those the one that is whole again last. A block refuses whatever room there is.
local function decide(p, b, key, cell, k, now, cost, id)
  if b.unlimited then
    return unlimited(b, id)
  end
  local binding, reason = b[1], 'ok'
  local remaining, reset, retry = binding.check(binding, cell + 1, now, cost, key)
  for j = 2, b.count do
    local limit = b[j]
    local left, whole, wait = limit.check(limit, cell + j, now, cost, key)
    if wait > retry or (retry == 0 and (left < remaining or (left == remaining and whole > reset))) then
      binding, remaining, reset, retry = limit, left, whole, wait
    end
  end
  if retry > 0 then
    reason = (binding.capacity == 0 and binding.algorithm ~= 'Balance') and 'blocked' or 'limit'
  end
  if p.penalty then
    local rest = penalty.rest(k, now)
    if rest > 0 then
      remaining, retry, reason = 0, max(retry, rest), 'penalty'
    end
  end
  return {
    retry == 0 and 1 or 0, binding.capacity, remaining, ceil(reset / 1000), ceil(retry / 1000), binding.name, reason, id,
    b.override, 0,
  }
end

local DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

-- in_shadow tells whether the policy only looks on, for the subject of that key: its digest decides, so always the same
-- subjects, and more of them the higher the share.
local function in_shadow(p, key)
  if p.shadow == 0 or p.shadow == 100 then
    return p.shadow == 100
  end
  local n = 0
  for at_digit = 5, 8 do
    n = n * 64 + find(DIGITS, sub(key, at_digit, at_digit), 1, true) - 1
  end
  return n % 100 >= 100 - p.shadow
end

-- shadowed gives the row of a denial as its caller gets it.
local function shadowed(p, key, row)
  if row[1] == 0 and in_shadow(p, key) then
    row[1], row[5], row[7] = 1, 0, 'shadow'
  end
  return row
end

-- write_counter charges counter k. The TTL is set in the same step, and again when it is missing or too short for what
-- the state needs.
local function write_counter(p, b, key, cell, k, now, cost)
  local need, longest = 0, 0
  if b.count == 1 and not p.penalty then
    local limit, state = b[1]
    state, need, longest = limit.write(limit, cell + 1, now, cost, key)
    call('HSET', key, limit.name, state)
  else
    local fields = {}
    for j = 1, b.count do
      local limit = b[j]
      local state, n, longer = limit.write(limit, cell + j, now, cost, key)
      fields[2 * j - 1], fields[2 * j] = limit.name, state
      need, longest = max(need, n), max(longest, longer)
    end
    if p.penalty and penalty.matters(k) then
      local state, n = penalty.write(p.penalty, k, now)
      fields[#fields + 1], fields[#fields + 2] = PENALTY_FIELD, state
      need, longest = max(need, n), max(longest, n + 1000)
    end
    call('HSET', key, unpack(fields))
  end
  local left = call('PTTL', key)
  if b.lasting then
    if left >= 0 then
      call('PERSIST', key)
    end
  elseif left == -1 or left < need then
    call('PEXPIRE', key, append('', longest))
  end
end

-- tend does what a denial has to write: times that lie in the future, and TTLs that are missing.
local function tend(p, b, key, cell, k, now)
  local write = p.penalty and redated[k]
  for j = 1, b.count do
    write = write or stale[cell + j]
  end
  if write then
    write_counter(p, b, key, cell, k, now, 0)
  end
  if not b.lasting and call('PTTL', key) == -1 then
    call('PEXPIRE', key, append('', b.keep))
  end
  for j = 1, #b.logs do
    local limit = b.logs[j]
    if call('PTTL', key .. limit.suffix) == -1 then
      call('PEXPIRE', key .. limit.suffix, limit.logTTL)
    end
  end
end

-- denied writes what a denial leaves behind, and makes its row that of a block when one begins by it.
local function denied(p, b, key, cell, k, now, row)
  if not p.penalty or penalty.rest(k, now) > 0 then
    return tend(p, b, key, cell, k, now)
  end
  penalty.deny(p.penalty, k, now)
  local rest = penalty.rest(k, now)
  if rest > 0 then
    row[3], row[5], row[7] = 0, max(row[5] or 0, ceil(rest / 1000)), 'penalty'
  end
  write_counter(p, b, key, cell, k, now, 0)
end

-- unnamed tells whether there is a log that the caller did not name.
local function unnamed(b, keys)
  for j = 1, #b.logs do
    local log, found = keys[1] .. b.logs[j].suffix, false
    for k = 2, #keys do
      found = found or keys[k] == log
    end
    if not found then
      return true
    end
  end
  return false
end

-- limit_one is the whole of penstock_limit and, readonly, penstock_limit_peek: one charge. resolve gives the policy for its
-- argument, or nil and an error reply. It is limit_many for one, without the arrays: what most calls are.
local function limit_one(keys, args, resolve, readonly)
  local p, failure = resolve(args[1] or '')
  failure = failure or wrong_policy(p, false) or wrong_charge(p, keys, args, true)
  if failure then
    return failure
  end
  local b, key, cost, id, now = budget_of(p, args, 3), keys[1], tonumber(args[2]) or p.cost, args[3], clock()
  if id ~= '' or unnamed(b, keys) then
    all_here(touched({}, key, b, '#', id))
  end
  if id ~= '' then
    local record
    record, failure = recall(key, '#', id, now)
    if record or failure then
      return failure or record.row
    end
  end
  failure = read_counter(p, b, key, 0, 1, now)
  if failure then
    return failure
  end
  local row = decide(p, b, key, 0, 1, now, cost, id)
  if cost == 0 or readonly or b.unlimited then
    return shadowed(p, key, row)
  end
  local allowed = row[1] == 1
  if allowed then
    write_counter(p, b, key, 0, 1, now, cost)
    row[10] = novelty(1)
  else
    denied(p, b, key, 0, 1, now, row)
  end
  row = shadowed(p, key, row)
  if id ~= '' then
    if allowed then
      remember(key .. '#' .. id, row, now, cost, b, 0, 0)
    else
      remember_denial(key .. '#' .. id, row, now, p)
    end
  end
  return row
end

-- decide_many fills rows, and tells whether all allow. over tells which charges were denied, also those that are in
-- shadow; again those whose row was remembered.
local function decide_many(charges, now, rows, over, again)
  local allowed = true
  for c = 1, charges do
    local k = counter_of[c]
    if not again[c] then
      local cost = charged[k] + cost_of[c]
      local row = decide(policy_of[k], budget_for[k], key_of[k], first_cell[k], k, now, cost, id_of[c])
      over[c] = row[1] == 0
      if not over[c] then
        charged[k] = cost
      end
      rows[c] = shadowed(policy_of[k], key_of[k], row)
    end
    allowed = allowed and rows[c][1] == 1
  end
  return allowed
end

-- settle_many charges the counters, or writes what denials leave behind, once for each counter.
local function settle_many(charges, counters, now, rows, over, allowed)
  for k = 1, counters do
    local p, b = policy_of[k], budget_for[k]
    if asked[k] > 0 and not b.unlimited then
      local row
      for c = 1, charges do
        if counter_of[c] == k and over[c] and cost_of[c] > 0 then
          row = rows[c]
        end
      end
      if allowed and charged[k] > 0 then
        write_counter(p, b, key_of[k], first_cell[k], k, now, charged[k])
      elseif row then
        -- In shadow, the row stays as it is.
        denied(p, b, key_of[k], first_cell[k], k, now, row[1] == 0 and row or {})
      else
        tend(p, b, key_of[k], first_cell[k], k, now)
      end
    end
  end
end

-- touched_by gives what the charges may touch beside the counters, which the caller had to name, and one of these; nothing
-- when that is all.
local function touched_by(charges)
  local list = {}
  for c = 1, charges do
    local k = counter_of[c]
    if id_of[c] ~= '' or budget_for[k].logs[1] then
      touched(list, key_of[k], budget_for[k], '#', id_of[c])
    end
  end
  return list
end

-- limit_many is the whole of penstock_limit_many: rows.
local function limit_many(keys, args, resolve)
  local charges, counters = read_charges(keys, args, resolve)
  if not charges then
    return counters
  end
  local now = clock()
  local rows, over, again = {}, {}, {}
  all_here(touched_by(charges))
  for c = 1, charges do
    if id_of[c] ~= '' then
      local record, failure = recall(key_of[counter_of[c]], '#', id_of[c], now)
      if failure then
        return failure
      elseif record then
        rows[c], again[c] = record.row, true
      end
    end
  end
  for k = 1, counters do
    local failure = read_counter(policy_of[k], budget_for[k], key_of[k], first_cell[k], k, now)
    if failure then
      return failure
    end
  end

  local allowed = decide_many(charges, now, rows, over, again)
  settle_many(charges, counters, now, rows, over, allowed)

  local written = {}
  for c = 1, charges do
    local k = counter_of[c]
    local b, row, takes = budget_for[k], rows[c], not again[c] and not over[c] and cost_of[c] > 0
    if allowed and takes and not b.unlimited and not written[k] then
      row[10], written[k] = novelty(k), 0
    end
    if id_of[c] ~= '' and not again[c] and cost_of[c] > 0 and not b.unlimited then
      if allowed and takes then
        remember(key_of[k] .. '#' .. id_of[c], row, now, cost_of[c], b, first_cell[k], written[k])
      elseif over[c] then
        remember_denial(key_of[k] .. '#' .. id_of[c], row, now, policy_of[k])
      end
    end
    if written[k] and takes then
      written[k] = written[k] + cost_of[c]
    end
  end
  return rows
end
