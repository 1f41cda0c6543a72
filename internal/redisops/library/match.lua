-- Matching a descriptor's value against the value that its policy declares.
--
-- KEYS, ARGV: none of its own.
-- Reply:      none of its own.
-- Time:       none.

-- parts_of cuts a declared value at its wildcards. No byte of it is ever a Lua pattern.
local function parts_of(declared)
  local parts, from = {}, 1
  while true do
    local star = find(declared, '*', from, true)
    if not star then
      parts[#parts + 1] = sub(declared, from)
      return parts
    end
    parts[#parts + 1] = sub(declared, from, star - 1)
    from = star + 1
  end
end

-- matches tells whether the value has the parts in order, the first at its beginning and the last at its end. The
-- leftmost place for each part leaves the most room for the next ones, so nothing is tried twice.
local function matches(parts, value)
  local first, last = parts[1], parts[#parts]
  if #parts == 1 then
    return value == first
  end
  if sub(value, 1, #first) ~= first then
    return false
  end
  local from = #first + 1
  for i = 2, #parts - 1 do
    local part = parts[i]
    if part ~= '' then
      local _, e = find(value, part, from, true)
      if not e then
        return false
      end
      from = e + 1
    end
  end
  return #value - #last + 1 >= from and sub(value, #value - #last + 1) == last
end
