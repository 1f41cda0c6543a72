-- The functions, registered.
--
-- penstock_limit <key> [log keys]           <policy> <cost> <id> <value>... [door]        → row
-- penstock_limit_many <keys>                (<policy> <cost> <id> <value>... [door])...   → rows
-- penstock_limit_peek <key> [log keys]      <policy> <cost> <id> <value>... [door]        → row; writes nothing
-- penstock_limit_refund <key> [log keys]    <policy> <cost> <id> <value>...               → row
-- penstock_limit_credit <key> [log keys]    <policy> <amount> <id> <value>...             → row
-- penstock_limit_reset <key> [log keys]     <policy> "" "" <value>...                     → row
-- penstock_slot_acquire <key> [slots key]   <policy> <slot id> <ttl ms> <value>... [door] → row
-- penstock_slot_release <key> [slots key]   <policy> <slot id> <value>...                 → row
-- penstock_policy                           <policy> [kind, default RateLimit]            → its JSON document; writes nothing
-- penstock_library                                                                       → the hash of the library's text
--                                           up to the line that registers this function, which Render appends; writes
--                                           nothing
--
-- KEYS:  see charges.lua and slots.lua.
-- ARGV:  see charges.lua, operations.lua and slots.lua; the policy is its name, <namespace>/<name>.
-- Reply: see limit.lua, operations.lua and slots.lua; PENSTOCK_NOPOLICY <policy> when this store has none of that name.
-- Time:  see limit.lua.

local function no_policy(name)
  return refuse('NOPOLICY', shown(name) .. ' is not a policy of this store')
end

local function by_name(name)
  if prepared_policies[name] then
    return prepared_policies[name]
  elseif not documents[name] then
    return nil, no_policy(name)
  end
  local p, failure = known(documents[name])
  prepared_policies[name] = p
  return p, failure
end

-- register gives Redis a function. While the library is loaded there is little to call, so the first call binds.
local function register(name, run, flags)
  redis.register_function{
    function_name = name,
    callback = function(keys, args)
      if not call then
        bind()
      end
      return run(keys, args)
    end,
    flags = flags,
  }
end

-- Where only something is released, a server that is out of memory lets it.
register('penstock_limit', function(keys, args) return limit_one(keys, args, by_name, false) end, {})
register('penstock_limit_many', function(keys, args) return limit_many(keys, args, by_name) end, {})
register('penstock_limit_peek', function(keys, args) return limit_one(keys, args, by_name, true) end, {'no-writes'})
register('penstock_limit_refund', function(keys, args) return refund(keys, args, by_name) end, {'allow-oom'})
register('penstock_limit_credit', function(keys, args) return credit(keys, args, by_name) end, {})
register('penstock_limit_reset', function(keys, args) return reset(keys, args, by_name) end, {'allow-oom'})
register('penstock_slot_acquire', function(keys, args) return slot_acquire(keys, args, by_name) end, {})
register('penstock_slot_release', function(keys, args) return slot_release(keys, args, by_name) end, {'allow-oom'})
register('penstock_policy', function(_, args)
  if not args[1] or args[3] then
    return refuse('BADARG', 'policy: want its name, and at most its kind after it')
  elseif args[2] and args[2] ~= 'RateLimit' then
    return refuse('BADARG', 'kind is "' .. shown(args[2]) .. '": want RateLimit')
  end
  return documents[args[1]] or no_policy(args[1])
end, {'no-writes'})
