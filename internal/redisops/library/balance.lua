-- Balance: what a subject has is spent, never refilled, and credited by somebody.
--
-- KEYS:  the counter (a hash); the limit's field holds "B <spent>": what was spent less what was credited, which may be
--        negative. So a changed number of requests changes what everybody has.
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  none; the counter has no TTL.
--
-- The functions are described in cells.lua.

local function new_balance()
  local balance = {}

  -- When a balance has room again nobody knows; a minute is asked for, in microseconds.
  local WAIT = 60000000

  function balance.prepare(limit)
    limit.keep = 0
  end

  function balance.read(_, i, raw)
    used[i], stale[i], known_state[i] = 0, false, false
    local sign, digits = match(raw or '', '^B (-?)([0-9]+)$')
    local spent = integer(digits)
    if spent then
      used[i], known_state[i] = sign == '-' and -spent or spent, true
    end
  end

  function balance.check(limit, i, _, cost)
    local has = max(min(limit.capacity - used[i], MAX_INTEGER), 0)
    if cost > has then
      return has, 0, WAIT
    end
    return has - cost, 0, 0
  end

  function balance.write(_, i, _, cost)
    local spent = used[i] + cost
    if spent < 0 then
      return append('B -', -spent), 0, 0
    end
    return append('B ', spent), 0, 0
  end

  -- Of what nobody knows the charge of, no more than was spent on balance: else whoever refunds could credit.
  function balance.give(limit, i, _, cost, _, charged)
    local most = max(used[i], 0)
    if charged then
      most = used[i] - min(used[i], limit.capacity - MAX_INTEGER)
    end
    used[i] = used[i] - min(cost, most)
  end

  return balance
end
