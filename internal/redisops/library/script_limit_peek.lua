-- penstock_limit_peek as a script, for servers without functions.
--
-- KEYS:  see charges.lua.
-- ARGV:  see charges.lua; the policy is its JSON document.
-- Reply: see limit.lua.
-- Time:  see limit.lua.

bind()
return limit(KEYS, ARGV, known, true)
