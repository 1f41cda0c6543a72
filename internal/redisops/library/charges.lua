-- What a call asks for: its charges, checked.
--
-- KEYS:  for each charge the counter's key rl:{<digest>}:<namespace>/<name>, which may be followed by the keys of its
--        logs, <counter>:<limit name>.
-- ARGV:  for each charge: the policy, the cost (0 to 2^53-1; 0 looks only), the id (empty), and the subject's values in
--        the policy's order.
-- Reply: none of its own; PENSTOCK_NOPOLICY, PENSTOCK_BADKEY and PENSTOCK_BADARG name what is wrong.
-- Time:  none.

-- The state of one call, like that of slots.lua. By charge: its cost, and the counter that it spends from.
local cost_of, counter_of = {}, {}
-- By counter: its policy and key, the slot before its first, all that is asked of it, and what it is to be charged.
local policy_of, key_of, first_slot, asked, charged = {}, {}, {}, {}, {}

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

-- wrong_argument says what is wrong with the arguments of a charge from a on; nil when nothing is.
local function wrong_argument(p, args, a)
  if args[a + 1] ~= '1' and not integer(match(args[a + 1] or '', '^[0-9]+$')) then
    return 'cost is "' .. shown(args[a + 1] or '') .. '": want an integer from 0 to 9007199254740991'
  elseif args[a + 2] ~= '' then
    return 'id has to be there and empty: this version keeps no ids'
  end
  for v = 1, p.values do
    local value = args[a + 2 + v]
    if not value or #value > 256 or (p.parts[v] and not matches(p.parts[v], value)) then
      return wrong_value(p, value, v)
    end
  end
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

-- wrong_charge gives an error reply when keys and arguments are not those of one charge on the policy.
local function wrong_charge(p, keys, args)
  if not is_counter_of(p, keys[1]) then
    return wrong_key(p, keys[1], 1)
  end
  if keys[2] then
    local k, failure = skip_logs(p, keys, 2)
    if failure or keys[k] then
      return failure or wrong_key(p, keys[k], k)
    end
  end
  local wrong = wrong_argument(p, args, 1)
  if wrong then
    return refuse('BADARG', wrong)
  end
  if args[4 + p.values] then
    return too_many(p, args, 4 + p.values)
  end
end

-- read_charges fills the arrays above. It gives the number of charges and of counters, or nil and an error reply.
local function read_charges(keys, args, resolve)
  local k, a, c, counters, slots = 1, 1, 0, 0, 0
  local seen = {}
  repeat
    c = c + 1
    local p, failure = resolve(args[a] or '')
    if not p then
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
    local wrong = wrong_argument(p, args, a)
    if wrong then
      return nil, refuse('BADARG', 'charge ' .. c .. ': ' .. wrong)
    end

    local counter = seen[key]
    if not counter then
      counters = counters + 1
      counter, seen[key] = counters, counters
      policy_of[counter], key_of[counter], first_slot[counter] = p, key, slots
      asked[counter], charged[counter] = 0, 0
      slots = slots + p.count
    elseif policy_of[counter] ~= p then
      return nil, refuse('BADARG', 'charge ' .. c .. ': policy is not the same as before for the same key')
    end
    cost_of[c], counter_of[c] = tonumber(args[a + 1]), counter
    asked[counter] = asked[counter] + cost_of[c]
    a = a + 3 + p.values
    if not keys[k] and args[a] then
      return nil, too_many(p, args, a)
    end
  until not keys[k]
  return c, counters
end
