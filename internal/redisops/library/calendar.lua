-- Calendar: the windows of a FixedWindow that begin with the minute, hour, day, week or month of a time zone.
--
-- KEYS, ARGV: none of its own.
-- Reply:      none of its own.
-- Time:       the caller's, in microseconds; here in seconds since 1970.
--
-- Lua has no time zones, so the policy brings the offsets from UTC of each: {since, offset}, the first of them since ever.
-- All limits of one zone have the same table.

local DAY = 86400

-- segment gives the place of the offset that is in force.
local function segment(offsets, second)
  for s = #offsets, 2, -1 do
    if second >= offsets[s][1] then
      return s
    end
  end
  return 1
end

-- instant gives the first second after that one (nil: of all) at which clocks of the zone show a local second. One that
-- they skip is the end of the gap.
local function instant(offsets, shown_time, after)
  for s = 1, #offsets do
    local second, ends = shown_time - offsets[s][2], offsets[s + 1]
    if s > 1 then
      second = max(second, offsets[s][1])
    end
    if (not ends or second < ends[1]) and (not after or second > after) then
      return second
    end
  end
end

-- month_of gives the days since 1970 of the first of the month in which a day lies, and of the next month
-- (http://howardhinnant.github.io/date_algorithms.html, civil_from_days and days_from_civil).
local function month_of(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local first = day - (doy - floor((153 * mp + 2) / 5))
  if mp == 11 then
    -- February ends the year that begins in March: with day 365, or 366.
    local year = yoe + 1
    return first, first + ((year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)) and 29 or 28)
  end
  return first, first + floor((153 * (mp + 1) + 2) / 5) - floor((153 * mp + 2) / 5)
end

-- days_of gives the first day of a window and of the next one.
local function days_of(calendar, day)
  if calendar == 'Day' then
    return day, day + 1
  elseif calendar == 'Week' then
    -- 1970 began on a Thursday, weeks begin on Mondays.
    local first = day - (day + 3) % 7
    return first, first + 7
  end
  return month_of(day)
end

-- calendar_window gives begin and end of the window in which now lies.
local function calendar_window(limit, now)
  local second, offsets = floor(now / 1000000), limit.offsets
  local s = segment(offsets, second)
  local shown_time = second + offsets[s][2]
  if limit.calendar == 'Minute' or limit.calendar == 'Hour' then
    -- An hour that clocks show twice is two windows. A change of the offset ends a window.
    local length = limit.window / 1000000
    local begin = second - shown_time % length
    local finish = begin + length
    if s > 1 then
      begin = max(begin, offsets[s][1])
    end
    if offsets[s + 1] then
      finish = min(finish, offsets[s + 1][1])
    end
    return begin * 1000000, finish * 1000000
  end
  local first, next_first = days_of(limit.calendar, floor(shown_time / DAY))
  return instant(offsets, first * DAY) * 1000000, instant(offsets, next_first * DAY, second) * 1000000
end
