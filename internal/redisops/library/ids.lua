-- Ids: a decision that is asked for again within a minute is not made again.
--
-- KEYS:  the records (strings): <counter>#<id> of a decision, <counter>+<id> of a credit. They stand beside the counter,
--        so in its slot, and hold "<time> <cost> <allowed> <limit> <remaining> <reset> <retry> <reason> <override> <limit
--        name>", and for each log that got entries " <limit name>=<number of the last of them>".
-- ARGV:  none of its own.
-- Reply: none of its own.
-- Time:  the caller's, in microseconds. A record is kept for 60 s, that of a denial only until the same call can succeed.

local MINUTE = 60000

-- recall gives the record at a key: time, cost, row and last (the numbers of the last entries, by limit name). It gives
-- nil when there is none, and nil and an error reply when something else stands there.
local function recall(key, id, now)
  local text = try('GET', key)
  if not text then
    return nil
  elseif type(text) == 'table' then
    return nil, unreadable(text, key)
  end
  local time, cost, allowed, limit, remaining, reset, retry, reason, override, name, logs = match(text,
    '^([0-9]+) ([0-9]+) ([01]) (%-?[0-9]+) ([0-9]+) ([0-9]+) ([0-9]+) ([a-z]+) ([0-9]+) ([a-z0-9-]*)(.*)$')
  time, cost, remaining, reset = integer(time), integer(cost), integer(remaining), integer(reset)
  retry, override, limit = integer(retry), integer(override), limit == '-1' and -1 or integer(match(limit or '', '^[0-9]+$'))
  if not (time and cost and remaining and reset and retry and override and limit) or (allowed == '0') == (retry == 0) or
    now - time >= MINUTE * 1000 then
    return nil
  end
  local record = {time = time, cost = cost, last = {}}
  for log, number in gmatch(logs, ' ([a-z0-9-]+)=([0-9]+)') do
    record.last[log] = integer(number)
  end
  record.row = {allowed == '1' and 1 or 0, limit, remaining, reset, retry, name, reason, id, override, 0}
  return record
end

-- remember writes the record of a decision. b tells which logs got entries (nil: none), and earlier how many of them
-- before those of this one.
local function remember(key, row, now, cost, b, cell, earlier)
  local keep = MINUTE
  if row[1] == 0 and cost == 0 then
    keep = min(keep, row[5])
  end
  local text = append('', now)
  for _, n in ipairs({cost, row[1], row[2], row[3], row[4], row[5]}) do
    text = append(text .. ' ', n)
  end
  text = text .. ' ' .. row[7] .. ' ' .. row[9] .. ' ' .. row[6]
  for j = 1, b and b.count or 0 do
    if b[j].suffix then
      text = append(text .. ' ' .. b[j].name .. '=', sequence[cell + j] + earlier + cost)
    end
  end
  call('SET', key, text, 'PX', append('', keep))
end
