-- What a call asks for: its charges, checked.
--
-- KEYS:  for each charge the counter's key rl:{<digest>}:<namespace>/<name>, which may be followed by the keys of its
--        logs, <counter>:<limit name>.
-- ARGV:  for each charge: the policy, the cost (0 to 2^53-1, 0 looks only; "" is the policy's), the id ("" is none), the
--        subject's values in the policy's order, and "door" where the policy asks for it: by that the caller says that
--        it has evaluated the policy's expressions.
-- Reply: none of its own; PENSTOCK_NOPOLICY, PENSTOCK_NEEDS_DOOR, PENSTOCK_BADKEY and PENSTOCK_BADARG name what is
--        wrong.
-- Time:  none.

-- The state of one call, like that of cells.lua. By charge: its cost, its id, and the counter that it spends from.
local cost_of, id_of, counter_of = {}, {}, {}
-- By counter: its policy, budget and key, the cell before its first, all that is asked of it, and what it is to be
-- charged.
local policy_of, budget_for, key_of, first_cell, asked, charged = {}, {}, {}, {}, {}, {}

-- is_counter_of tells whether the key is rl:{, 22 base64url characters and the policy's tail.
local function is_counter_of(p, key)
  if not key or #key ~= p.size or sub(key, 27) ~= p.tail then
    return false
  end
  local _, brace = find(key, '^rl:{[%w_-]+}')
  return brace == 27
end

local function wrong_key(p, key, n)
  return refuse('BADKEY', 'key ' .. n .. ' is "' .. shown(key or '') .. '": expected rl:{<22 base64url characters>}:' ..
    p.name .. ', optionally followed by its logs (<key>:<limit name>)')
end

-- wrong_value says what is wrong with value v of a subject.
local function wrong_value(p, value, v)
  local what = 'value ' .. v .. ' (' .. shown(p.descriptors[v].key) .. ') '
  if not value then
    return what .. 'is missing: ' .. p.name .. ' takes ' .. p.values .. ' values'
  elseif #value > 256 then
    return what .. 'has ' .. #value .. ' bytes: want at most 256'
  end
  return what .. 'is "' .. shown(value) .. '": ' .. p.name .. ' is for "' .. shown(p.descriptors[v].value) .. '"'
end

-- wrong_values says what is wrong with a subject whose value n is args[first + n]; nil when nothing is.
local function wrong_values(p, args, first)
  for v = 1, p.values do
    local value = args[first + v]
    if not value or #value > 256 or (p.parts[v] and not matches(p.parts[v], value)) then
      return wrong_value(p, value, v)
    end
  end
end

local function is_id(text)
  return #text <= MAX_ID and find(text, '^[!-~]+$')
end

-- wrong_argument says what is wrong with the arguments of a charge from a on; nil when nothing is. decides tells whether
-- the policy's expressions matter: else nobody has to say what a request costs.
local function wrong_argument(p, args, a, decides)
  local cost, id = args[a + 1], args[a + 2]
  if cost ~= '1' and not integer(match(cost or '', '^[0-9]+$')) and (cost ~= '' or (decides and not p.cost)) then
    return 'cost is "' .. shown(cost or '') .. '": want an integer from 0 to 9007199254740991' ..
      (p.cost and ', or nothing for the policy\'s' or '')
  elseif id ~= '' and not (id and is_id(id)) then
    return 'id: want an empty argument, or 1 to 128 visible ASCII characters'
  end
  return wrong_values(p, args, a + 2)
end

-- skip_logs gives the place of the first key, from k on, that does not belong to the counter before it; nil and an error
-- reply when one that does is not the key of a log.
local function skip_logs(p, keys, k)
  local prefix = keys[k - 1] .. ':'
  while keys[k] and sub(keys[k], 1, #prefix) == prefix do
    if not p.logs[sub(keys[k], #prefix + 1)] then
      return nil, wrong_key(p, keys[k], k)
    end
    k = k + 1
  end
  return k
end

local function too_many(p, args, a)
  return refuse('BADARG', (#args - a + 1) .. ' arguments too many: ' .. p.name .. ' takes ' .. p.values .. ' values')
end

local function needs_door(p)
  return refuse('NEEDS_DOOR', p.name .. ' has expressions (when or cost) that only penstockd evaluates: ask one of its doors')
end

-- wrong_policy gives an error reply when the policy's kind of limit is not the one that the call is for.
local function wrong_policy(p, slots)
  if p.slots == slots then
    return nil
  elseif p.slots then
    return refuse('BADARG', 'policy ' .. p.name .. ' is a Concurrency: call penstock_slot_acquire and penstock_slot_release')
  end
  return refuse('BADARG', 'policy ' .. p.name .. ' has no slots: want one of algorithm Concurrency')
end

-- wrong_keys gives an error reply when keys are not those of one counter of the policy.
local function wrong_keys(p, keys)
  if not is_counter_of(p, keys[1]) then
    return wrong_key(p, keys[1], 1)
  end
  if keys[2] then
    local k, failure = skip_logs(p, keys, 2)
    if failure or keys[k] then
      return failure or wrong_key(p, keys[k], k)
    end
  end
end

-- lacks_door tells whether "door" does not stand at a, where the policy asks for it and the call is one for which that
-- matters.
local function lacks_door(p, args, a, decides)
  return decides and p.door and args[a] ~= 'door'
end

-- wrong_end gives an error reply when the arguments do not end before a, or behind the "door" that has to be there.
local function wrong_end(p, args, a, decides)
  if lacks_door(p, args, a, decides) then
    return needs_door(p)
  elseif decides and p.door then
    a = a + 1
  end
  if args[a] then
    return too_many(p, args, a)
  end
end

-- wrong_charge gives an error reply when keys and arguments are not those of one charge on the policy. decides tells
-- whether the policy's expressions matter.
local function wrong_charge(p, keys, args, decides)
  local failure = wrong_keys(p, keys)
  if failure then
    return failure
  elseif lacks_door(p, args, 4 + p.values, decides) then
    -- Before the cost: a policy whose cost is an expression takes none that is empty.
    return needs_door(p)
  end
  local wrong = wrong_argument(p, args, 1, decides)
  if wrong then
    return refuse('BADARG', wrong)
  end
  return wrong_end(p, args, 4 + p.values, decides)
end

-- add_counter gives the counter of a key, which it adds unless it is there; nil and an error reply when the key stood for
-- something else before.
local function add_counter(seen, p, b, key, counters, cells)
  local counter = seen[key]
  if not counter then
    counter, seen[key] = counters + 1, counters + 1
    policy_of[counter], budget_for[counter], key_of[counter], first_cell[counter] = p, b, key, cells
    asked[counter], charged[counter] = 0, 0
  elseif policy_of[counter] ~= p or budget_for[counter] ~= b then
    return nil, 'policy is not the same as before for the same key, or the values have other limits'
  end
  return counter
end

-- read_charges fills the arrays above. It gives the number of charges and of counters, or nil and an error reply.
local function read_charges(keys, args, resolve)
  local k, a, c, counters, cells = 1, 1, 0, 0, 0
  local seen = {}
  repeat
    c = c + 1
    local p, failure = resolve(args[a] or '')
    failure = failure or wrong_policy(p, false)
    if failure then
      return nil, failure
    end
    local key = keys[k]
    if not is_counter_of(p, key) then
      return nil, wrong_key(p, key, k)
    end
    k, failure = skip_logs(p, keys, k + 1)
    if failure then
      return nil, failure
    end
    if lacks_door(p, args, a + 3 + p.values, true) then
      return nil, needs_door(p)
    end
    local counter
    local wrong, id = wrong_argument(p, args, a, true), args[a + 2]
    if not wrong then
      local b = budget_of(p, args, a + 2)
      counter, wrong = add_counter(seen, p, b, key, counters, cells)
      if counter and counter > counters then
        counters, cells = counter, cells + b.count
      end
    end
    if not wrong and id ~= '' then
      if seen[key .. '#' .. id] then
        wrong = 'id is the same as before for the same key'
      end
      seen[key .. '#' .. id] = true
    end
    if wrong then
      return nil, refuse('BADARG', 'charge ' .. c .. ': ' .. wrong)
    end

    cost_of[c], id_of[c], counter_of[c] = tonumber(args[a + 1]) or p.cost, id, counter
    asked[counter] = asked[counter] + cost_of[c]
    a = a + 3 + p.values + (p.door and 1 or 0)
    if not keys[k] and args[a] then
      return nil, too_many(p, args, a)
    end
  until not keys[k]
  return c, counters
end
