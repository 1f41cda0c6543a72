-- Operations: what is not a decision. Each is one call on one counter.
--
-- KEYS:  see charges.lua.
-- ARGV:  the policy, a cost, an id, the subject's values.
--        refund: gives back the cost, never more than is used; with an id what that decision was charged, but no more
--        than the cost if there is one, and once. credit: adds the cost, at least 1,
--        to each Balance; with an id once a minute. reset: forgets the subject, its decisions and credits too; cost and
--        id are empty.
-- Reply: a row as a look (a cost of 0) would get it afterwards. The reason is absent when there is no decision of that id
--        that was charged (any more).
-- Time:  redis.call('TIME'), once.

-- operation checks a call and gives the policy, the budget of the subject and its key, or nil and an error reply.
local function operation(keys, args, resolve)
  local p, failure = resolve(args[1] or '')
  failure = failure or wrong_charge(p, keys, args, false)
  if failure then
    return nil, failure
  end
  return p, budget_of(p, args, 3), keys[1]
end

local function look(p, b, key, now, id)
  return shadowed(p, key, decide(p, b, key, 0, 1, now, 0, id))
end

-- give_back takes so much of every limit, of a decision only of those that it was charged by.
local function give_back(p, b, key, now, cost, record)
  for j = 1, b.count do
    if not record then
      b[j].give(b[j], j, now, cost, key)
    elseif record.marks[b[j].name] == b[j].mark then
      b[j].give(b[j], j, now, cost, key, record.time, record.last[b[j].name])
    end
  end
  write_counter(p, b, key, 0, 1, now, 0)
end

-- refund is the whole of penstock_limit_refund.
local function refund(keys, args, resolve)
  local p, b, key = operation(keys, args, resolve)
  if not p then
    return b
  end
  local failure = wrong_policy(p, false)
  if failure then
    return failure
  end
  local cost, id, now = tonumber(args[2]), args[3], clock()
  all_here(touched({}, key, b, '#', id))
  local record
  if id ~= '' then
    record, failure = recall(key, '#', id, now)
    if failure then
      return failure
    end
  elseif not cost and not p.cost then
    return refuse('BADARG', 'cost is empty, and only penstockd can tell what a request of ' .. p.name .. ' costs')
  end
  failure = read_counter(p, b, key, 0, 1, now)
  if failure then
    return failure
  end
  if b.unlimited then
    return unlimited(b, id)
  end
  if id ~= '' and (not record or record.cost == 0) then
    local row = look(p, b, key, now, id)
    row[7] = 'absent'
    return row
  end
  cost = record and min(cost or record.cost, record.cost) or cost or p.cost
  if cost > 0 then
    if not fresh[1] then
      give_back(p, b, key, now, cost, record)
    end
    if record then
      use_up(record, cost)
    end
  end
  return look(p, b, key, now, id)
end

-- wrong_credit says what is wrong with an amount; nil when nothing is.
local function wrong_credit(p, b, cost)
  local found = b.unlimited
  for j = 1, b.count do
    if b[j].algorithm == 'Balance' then
      found = true
      if b[j].capacity - used[j] + cost > MAX_INTEGER then
        return 'cost: the balance would be more than 9007199254740991'
      end
    end
  end
  if not found then
    return 'policy ' .. p.name .. ' has no limit of algorithm Balance to credit'
  end
end

-- credit is the whole of penstock_limit_credit.
local function credit(keys, args, resolve)
  local p, b, key = operation(keys, args, resolve)
  if not p then
    return b
  end
  local cost, id, now = tonumber(args[2]), args[3], clock()
  if not cost or cost < 1 then
    return refuse('BADARG', 'cost is "' .. shown(args[2]) .. '": want how much to credit, from 1 to 9007199254740991')
  end
  local failure = wrong_policy(p, false)
  if failure then
    return failure
  end
  all_here(touched({}, key, b, '+', id))
  if id ~= '' then
    local record
    record, failure = recall(key, '+', id, now)
    if record or failure then
      return failure or record.row
    end
  end
  failure = read_counter(p, b, key, 0, 1, now)
  if failure then
    return failure
  end
  local wrong = wrong_credit(p, b, cost)
  if wrong then
    return refuse('BADARG', wrong)
  end
  if b.unlimited then
    return unlimited(b, id)
  end
  for j = 1, b.count do
    if b[j].algorithm == 'Balance' then
      used[j] = used[j] - cost
    end
  end
  write_counter(p, b, key, 0, 1, now, 0)
  local row = look(p, b, key, now, id)
  if id ~= '' then
    keep(key .. '+' .. id, now, cost, row, '', MINUTE)
  end
  return row
end

-- reset is the whole of penstock_limit_reset.
local function reset(keys, args, resolve)
  local p, b, key = operation(keys, args, resolve)
  if not p then
    return b
  elseif args[2] ~= '' or args[3] ~= '' then
    return refuse('BADARG', 'cost and id have to be there and empty')
  end
  local gone = {key}
  for _, keeper in pairs(p.logs) do
    gone[#gone + 1] = key .. keeper.suffix
  end
  all_here({key .. '!reset', unpack(gone)})
  call('DEL', unpack(gone))
  local now = clock()
  if not p.slots then
    forget_before(key, now)
  end
  if b.unlimited then
    return unlimited(b, '')
  elseif p.slots then
    return slot_row(b, b[1].capacity, 0, 0, 'ok', '')
  end
  return read_counter(p, b, key, 0, 1, now) or look(p, b, key, now, '')
end
