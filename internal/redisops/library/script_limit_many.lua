-- penstock_limit_many as a script, for servers without functions.
--
-- KEYS:  see charges.lua.
-- ARGV:  see charges.lua; the policy is its JSON document.
-- Reply: see limit.lua.
-- Time:  see limit.lua.

bind()

-- Several charges of one policy share what was prepared, and by that are known to be of one version.
local seen = {}

return limit_many(KEYS, ARGV, function(document)
  local failure
  if not seen[document] then
    seen[document], failure = known(document)
  end
  return seen[document], failure
end)
