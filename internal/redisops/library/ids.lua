-- Ids: a decision that is asked for again within a minute is not made again.
--
-- KEYS:  the records (strings): <counter>#<id> of a decision, <counter>+<id> of a credit. They stand beside the counter,
--        so in its slot, and hold "<time> <cost> <allowed> <limit> <remaining> <reset> <retry> <reason> <override> <limit
--        name>", and for each limit that was charged " <limit name>=<how it counted>", with "#<number of the last entry>"
--        behind it when it keeps a log. <counter>!reset (a string) holds when the subject was reset.
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. Records are kept for 60 s.
--
-- A denial has charged nothing, so it is decided anew and leaves no record, which whoever is denied could fill Redis with.
-- But a penalty counts denials: there one is remembered until the same call can succeed as things stand, whatever is given
-- back or credited in between.

local MINUTE = 60000

-- forgotten tells whether the subject was reset since; nil and an error reply when something else stands at the key that
-- tells. When the clock went back behind the reset, what seems to be of the future was made before it.
local function forgotten(counter, time, now)
  local text = try('GET', counter .. '!reset')
  if type(text) == 'table' then
    return nil, unreadable(text, counter .. '!reset')
  end
  local since = integer(match(text or '', '^[0-9]+$'))
  if since and since > now then
    return time > now
  end
  return since ~= nil and since >= time
end

-- touched adds to a list what a call may touch of a counter: the key, its logs, and the records of an id, of a decision (#)
-- or a credit (+).
local function touched(list, key, b, sign, id)
  list[#list + 1] = key
  for j = 1, #b.logs do
    list[#list + 1] = key .. b.logs[j].suffix
  end
  if id ~= '' then
    list[#list + 1], list[#list + 2] = key .. sign .. id, key .. '!reset'
  end
  return list
end

-- counted_of gives, by limit name, how each limit counted that was charged, and the numbers of the last entries.
local function counted_of(text)
  local marks, last = {}, {}
  for name, mark, number in gmatch(text, ' ([a-z0-9-]+)=([^ #]+)#?([0-9]*)') do
    marks[name], last[name] = mark, integer(match(number, '^[0-9]+$'))
  end
  return marks, last
end

-- recall gives the record of an id, decision (#) or credit (+): its key, time, cost, row, marks and last. It gives nil when
-- there is none, or the subject was reset since, and nil and an error reply when something else stands there.
local function recall(counter, sign, id, now)
  local key = counter .. sign .. id
  local text = try('GET', key)
  if not text then
    return nil
  elseif type(text) == 'table' then
    return nil, unreadable(text, key)
  end
  local time, cost, allowed, limit, remaining, reset, retry, reason, override, name, counted = match(text,
    '^([0-9]+) ([0-9]+) ([01]) (%-?[0-9]+) ([0-9]+) ([0-9]+) ([0-9]+) ([a-z]+) ([0-9]+) ([a-z0-9-]*)(.*)$')
  time, cost, remaining, reset = integer(time), integer(cost), integer(remaining), integer(reset)
  retry, override, limit = integer(retry), integer(override), limit == '-1' and -1 or integer(match(limit or '', '^[0-9]+$'))
  if not (time and cost and remaining and reset and retry and override and limit) or (allowed == '0') == (retry == 0) or
    now - time >= MINUTE * 1000 then
    return nil
  end
  local gone, failure = forgotten(counter, time, now)
  if gone or failure then
    return nil, failure
  end
  local record = {key = key, time = time, cost = cost}
  record.marks, record.last = counted_of(counted)
  record.row = {allowed == '1' and 1 or 0, limit, remaining, reset, retry, name, reason, id, override, 0}
  return record
end

-- keep writes a record for so many milliseconds.
local function keep(key, time, cost, row, counted, ms)
  local text = append('', time)
  for _, n in ipairs({cost, row[1], row[2], row[3], row[4], row[5]}) do
    text = append(text .. ' ', n)
  end
  call('SET', key, text .. ' ' .. row[7] .. ' ' .. row[9] .. ' ' .. row[6] .. counted, 'PX', append('', ms))
end

-- remember writes the record of a decision that was charged. earlier is how many entries its logs got before those of this
-- one.
local function remember(key, row, now, cost, b, cell, earlier)
  local counted = ''
  for j = 1, b.count do
    counted = counted .. ' ' .. b[j].name .. '=' .. b[j].mark
    if b[j].suffix then
      counted = append(counted .. '#', sequence[cell + j] + earlier + cost)
    end
  end
  keep(key, now, cost, row, counted, MINUTE)
end

-- remember_denial does so for a denial, if it has to be remembered; in shadow its row allows.
local function remember_denial(key, row, now, p)
  if p.penalty then
    keep(key, now, 0, row, '', row[1] == 0 and min(MINUTE, row[5]) or MINUTE)
  end
end

-- use_up has a record refunded no more. A decision that was given back in part stays decided.
local function use_up(record, cost)
  if cost == record.cost then
    call('DEL', record.key)
  else
    keep(record.key, record.time, 0, record.row, '', max(call('PTTL', record.key), 1))
  end
end

-- forget_before has nobody repeat or refund what was done before the subject was reset: it is none of the new state.
local function forget_before(counter, now)
  call('SET', counter .. '!reset', append('', now), 'PX', append('', MINUTE))
end
