-- The functions, registered.
--
-- penstock_limit <key> [log keys]           <policy> <cost> <id> <value>...          → row
-- penstock_limit_many <keys>                (<policy> <cost> <id> <value>...)...     → rows
-- penstock_limit_peek <key> [log keys]      <policy> <cost> <id> <value>...          → row; writes nothing
-- penstock_policy                           <policy> [kind, default RateLimit]       → its JSON document; writes nothing
--
-- KEYS:  see charges.lua.
-- ARGV:  see charges.lua; the policy is its name, <namespace>/<name>.
-- Reply: see limit.lua; PENSTOCK_NOPOLICY <policy> when this store has none of that name.
-- Time:  see limit.lua.

-- Policies that were used since the library was loaded.
local prepared_policies = {}

local function no_policy(name)
  return refuse('NOPOLICY', shown(name) .. ' is not a policy of this store')
end

local function by_name(name)
  local p = prepared_policies[name]
  if p then
    return p
  end
  if not documents[name] then
    return nil, no_policy(name)
  end
  local failure
  p, failure = known(documents[name])
  prepared_policies[name] = p
  return p, failure
end

redis.register_function('penstock_limit', function(keys, args)
  if not call then
    bind()
  end
  return limit(keys, args, by_name, false)
end)

redis.register_function('penstock_limit_many', function(keys, args)
  if not call then
    bind()
  end
  return limit_many(keys, args, by_name)
end)

redis.register_function{
  function_name = 'penstock_limit_peek',
  callback = function(keys, args)
    if not call then
      bind()
    end
    return limit(keys, args, by_name, true)
  end,
  flags = {'no-writes'},
}

redis.register_function{
  function_name = 'penstock_policy',
  callback = function(_, args)
    if not call then
      bind()
    end
    if not args[1] or args[3] then
      return refuse('BADARG', 'policy: want its name, and at most its kind after it')
    elseif args[2] and args[2] ~= 'RateLimit' then
      return refuse('BADARG', 'kind is "' .. shown(args[2]) .. '": want RateLimit')
    end
    return documents[args[1]] or no_policy(args[1])
  end,
  flags = {'no-writes'},
}
