-- Compiled policies, and what a decision needs of them worked out once.
--
-- KEYS, ARGV: none of its own.
-- Reply:      none of its own.
-- Time:       none.

local algorithms

-- prepared gives a policy from its JSON document: name; count and, from 1, the limits; fields (their names) and logs
-- (those that keep one, by name); values (how many a subject has), descriptors, and parts (of the declared values, by
-- position); tail and size of its keys; keep (the counter's longest TTL, in milliseconds). A document of another shape
-- raises an error.
local function prepared(document)
  local d = cjson.decode(document)
  local p = {
    name = d.name, count = #d.limits, fields = {}, logs = {}, values = 0, parts = {}, tail = '}:' .. d.name,
    size = 28 + #d.name, keep = 0,
  }
  algorithms = algorithms or {FixedWindow = fixed_window, SlidingLog = sliding_log, TokenBucket = token_bucket}
  for i = 1, p.count do
    local limit = d.limits[i]
    local algorithm = algorithms[limit.algorithm]
    limit.window = limit.windowMs * 1000
    limit.capacity = limit.requests
    limit.read, limit.check, limit.write = algorithm.read, algorithm.check, algorithm.write
    algorithm.prepare(limit)
    p[i], p.fields[i], p.keep = limit, limit.name, max(p.keep, limit.keep)
    if limit.suffix then
      p.logs[limit.name] = limit
    end
  end
  if d.descriptors then
    p.descriptors, p.values = d.descriptors, #d.descriptors
    for i = 1, p.values do
      if d.descriptors[i].value then
        p.parts[i] = parts_of(d.descriptors[i].value)
      end
    end
  end
  return p
end

-- known gives the prepared policy of a document, or nil and an error reply.
local function known(document)
  local ok, p = protect(prepared, document)
  if not ok then
    return nil, refuse('BADARG', 'policy is not the JSON document of a RateLimit that this version knows')
  end
  return p
end
