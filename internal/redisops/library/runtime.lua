-- What every other file uses: Lua's and Redis' functions as locals, the clock, numbers and refusals.
--
-- KEYS, ARGV: none of its own.
-- Reply:      refuse gives the error reply "PENSTOCK_<CODE> <what was wrong>".
-- Time:       redis.call('TIME'), the only clock there is; a caller reads it once.

-- Lua numbers are doubles: up to here integers are exact.
local MAX_INTEGER = 9007199254740991
-- How many bytes the id of a decision or a slot may have.
local MAX_ID = 128
-- How many entries of a sorted set one command changes: unpack has room for 8,000 values.
local BATCH = 1000

local call, try
local ceil, floor, max, min
local find, format, gmatch, gsub, match, sub
local concat, ipairs, pairs, protect, tonumber, type, unpack

-- bind fills the locals. While a library is loaded, nothing but redis.register_function exists, so it is called by the
-- first function that runs.
local function bind()
  call, try = redis.call, redis.pcall
  ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
  find, format, gmatch, gsub = string.find, string.format, string.gmatch, string.gsub
  match, sub = string.match, string.sub
  concat, unpack = table.concat, _G.unpack
  ipairs, pairs, protect, tonumber, type = _G.ipairs, _G.pairs, _G.pcall, _G.tonumber, _G.type
end

-- clock gives microseconds since 1970.
local function clock()
  local t = call('TIME')
  return t[1] * 1000000 + t[2]
end

-- append gives a text with an integer in digits behind it. Lua's own conversion keeps 14 of them: 1.0005e+14.
local function append(s, n)
  if n < 1e14 then
    return s .. n
  end
  return s .. format('%.0f', n)
end

-- integer gives the number of up to 16 decimal digits, or nil: for no digits, and for what a double does not hold
-- exactly.
local function integer(digits)
  if digits and #digits <= 16 then
    local n = tonumber(digits)
    if n <= MAX_INTEGER then
      return n
    end
  end
end

-- all_here raises an error unless all these keys are on this node. While a slot moves to another node of a cluster, a key that
-- the caller did not name, and that is on the other one, looks absent; what would be written there then could not be moved
-- any more. Redis tells by commands with several keys only, so one key is in all of them.
local function all_here(keys)
  for from = 2, #keys, BATCH do
    call('EXISTS', keys[1], unpack(keys, from, min(from + BATCH - 1, #keys)))
  end
end

-- shown makes foreign bytes fit for one line of an error reply. The longest name of a policy has 317 bytes.
local function shown(s)
  if #s > 320 then
    s = sub(s, 1, 317) .. '...'
  end
  return (gsub(s, '[^ -~]', '?'))
end

local function refuse(code, what)
  return redis.error_reply('PENSTOCK_' .. code .. ' ' .. what)
end

-- unreadable gives the error reply for a key that could not be read. What is not the key's own fault (it moved to another
-- node of a cluster) is passed on as it is, since the caller knows what to do then.
local function unreadable(reply, key)
  if find(reply.err, 'WRONGTYPE', 1, true) then
    return refuse('WRONGTYPE', key .. ' holds something else: another program wrote it; delete it')
  end
  return reply
end
