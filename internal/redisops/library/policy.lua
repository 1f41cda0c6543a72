-- Compiled policies, and what a decision needs of them worked out once.
--
-- KEYS, ARGV: none of its own.
-- Reply:      none of its own.
-- Time:       none.

-- Algorithms by name, each made when it is first needed: a script makes all that it defines again in every call.
local makers = {
  Balance = new_balance, Concurrency = new_concurrency, FixedWindow = new_fixed_window,
  SlidingCounter = new_sliding_counter, SlidingLog = new_sliding_log, TokenBucket = new_token_bucket,
}
local algorithms, penalty = {}, nil

local function algorithm_of(name)
  local algorithm = algorithms[name] or makers[name]()
  algorithms[name] = algorithm
  return algorithm
end

-- budget_from prepares a list of limits of the policy p, as they hold for some subjects: count and, from 1, the limits;
-- fields (what to read of the counter), logs (the limits that keep one), keep (the counter's longest TTL, in
-- milliseconds), lasting (whether it has none) and override (which one of the policy's this is; 0 for its own limits). The
-- limits with logs go into p.logs, too.
local function budget_from(p, list, override)
  local pen = p.penalty
  local b = {count = #list, fields = {}, logs = {}, keep = pen and pen.keep or 0, lasting = false, override = override}
  for i = 1, b.count do
    local limit = list[i]
    local algorithm = algorithm_of(limit.algorithm)
    limit.window = limit.windowMs * 1000
    limit.capacity = limit.requests
    limit.offsets = limit.calendar and p.time_zones[limit.timeZone]
    limit.read, limit.check, limit.write, limit.give = algorithm.read, algorithm.check, algorithm.write, algorithm.give
    algorithm.prepare(limit)
    -- What was counted otherwise is none of this limit's.
    limit.mark = gsub(limit.signature or limit.algorithm, ' ', '')
    b[i], b.fields[i], b.keep = limit, limit.name, max(b.keep, limit.keep)
    b.lasting = b.lasting or limit.algorithm == 'Balance'
    if limit.suffix then
      b.logs[#b.logs + 1], p.logs[limit.name] = limit, limit
    end
  end
  if pen then
    b.fields[b.count + 1] = PENALTY_FIELD
  end
  return b
end

-- pattern_of gives the parts of a declared value; nil for one that matches all.
local function pattern_of(value)
  if value and value ~= '' then
    return parts_of(value)
  end
end

-- join gives the values at these positions as one text, so that no two lists look alike; value n is list[first + n].
local function join(positions, list, first)
  if #positions == 1 then
    return list[first + positions[1]]
  end
  local parts = {}
  for i = 1, #positions do
    local value = list[first + positions[i]]
    parts[i] = #value .. ':' .. value
  end
  return concat(parts)
end

-- shapes_from arranges overrides, which come with the most specific first. Those that are exact, have a pattern, or
-- match all at the same positions are a shape: they are found by their exact values, and their patterns tried in order.
local function shapes_from(p, overrides)
  local shapes, form = {}, nil
  for n = 1, #overrides do
    local o = overrides[n]
    local exact, patterns, this = {}, {}, ''
    for v = 1, p.values do
      local parts = pattern_of(o.values[v])
      if not parts then
        this = this .. '-'
      elseif #parts == 1 then
        exact[#exact + 1], this = v, this .. '='
      else
        patterns[v], this = parts, this .. '*'
      end
    end
    if this ~= form then
      form, shapes[#shapes + 1] = this, {exact = exact, by_value = {}}
    end
    local by_value = shapes[#shapes].by_value
    local key = join(exact, o.values, 0)
    local budget = o.unlimited and {unlimited = true, count = 0, logs = {}, override = n} or
      budget_from(p, o.limits, n)
    by_value[key] = by_value[key] or {}
    by_value[key][#by_value[key] + 1] = {patterns = patterns, budget = budget}
  end
  return shapes
end

-- prepared gives a policy from its JSON document: name; base (its own limits as a budget) and shapes (its overrides; nil
-- for none); logs (all limits of all budgets that keep one, by name); values (how many a subject has), descriptors, and
-- parts (of the declared values, by position); tail and size of its keys; cost (of a call that says none; nil when only
-- penstockd can tell), door (whether only penstockd can tell that it applies), shadow (percent), penalty (nil for none),
-- slots (whether it is a Concurrency), time_zones (offsets by zone; nil without a calendar). A document of another shape
-- raises an error.
local function prepared(document)
  local d = cjson.decode(document)
  local p = {
    name = d.name, logs = {}, values = 0, parts = {}, tail = '}:' .. d.name, size = 28 + #d.name,
    door = d.costExpression ~= nil or (d.when ~= nil and #d.when > 0), shadow = d.shadowPercent or 0,
    slots = d.limits[1].algorithm == 'Concurrency', time_zones = d.timeZones,
  }
  if not d.costExpression then
    p.cost = max(d.cost or 1, 1)
  end
  if d.penalty then
    penalty = penalty or new_penalty()
    p.penalty = penalty.prepare(d.penalty)
  end
  p.base = budget_from(p, d.limits, 0)
  if d.descriptors then
    p.descriptors, p.values = d.descriptors, #d.descriptors
    for v = 1, p.values do
      p.parts[v] = pattern_of(d.descriptors[v].value)
    end
  end
  if d.overrides and #d.overrides > 0 then
    p.shapes = shapes_from(p, d.overrides)
  end
  return p
end

-- budget_of gives the budget that holds for the subject whose value n is args[first + n]. Nothing but the values of the
-- subject decides, so that everybody who asks for it comes to the same.
local function budget_of(p, args, first)
  if not p.shapes then
    return p.base
  end
  for s = 1, #p.shapes do
    local shape = p.shapes[s]
    local candidates = shape.by_value[join(shape.exact, args, first)]
    for c = 1, candidates and #candidates or 0 do
      local found = true
      for v, parts in pairs(candidates[c].patterns) do
        found = found and matches(parts, args[first + v])
      end
      if found then
        return candidates[c].budget
      end
    end
  end
  return p.base
end

-- known gives the prepared policy of a document, or nil and an error reply.
local function known(document)
  local ok, p = protect(prepared, document)
  if not ok then
    return nil, refuse('BADARG', 'policy is not the JSON document of a RateLimit that this version knows')
  end
  return p
end

-- Policies that were used: in a script those of one call, in a library since it was loaded.
local prepared_policies = {}

-- by_document resolves the policy that a script is given. Several charges of one policy share what was prepared, and by
-- that are known to be of one version.
local function by_document(document)
  if prepared_policies[document] then
    return prepared_policies[document]
  end
  local p, failure = known(document)
  prepared_policies[document] = p
  return p, failure
end
