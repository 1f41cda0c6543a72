package engine

import (
	"math"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// windowOf gives when the window of a FixedWindow began, and when it ends and the next one begins. It is the window that the
// function library counts in, by the clock of this machine.
func windowOf(l *policy.Limit, of *policy.RateLimit, now time.Time) (began, finish time.Time) {
	if l.Calendar == "" {
		ms := now.UnixMilli()
		begin := ms - ms%l.WindowMs
		return time.UnixMilli(begin), time.UnixMilli(begin + l.WindowMs)
	}
	begin, end := calendarWindow(l, of.TimeZones[l.TimeZone], now.Unix())
	return time.Unix(begin, 0), time.Unix(end, 0)
}

const daySeconds = 24 * 60 * 60

// calendarWindow gives begin and end of the calendar's window in which a second lies, in a zone of these offsets; see
// calendar.lua, which does the same.
func calendarWindow(l *policy.Limit, offsets [][2]int64, second int64) (begin, end int64) {
	s := len(offsets) - 1
	for s > 0 && second < offsets[s][0] {
		s--
	}
	shown := second + offsets[s][1]
	switch l.Calendar {
	case policy.CalendarMinute, policy.CalendarHour:
		// An hour that clocks show twice is two windows. A change of the offset ends a window.
		length := l.WindowMs / 1000
		begin = second - shown%length
		end = begin + length
		if s > 0 {
			begin = max(begin, offsets[s][0])
		}
		if s+1 < len(offsets) {
			end = min(end, offsets[s+1][0])
		}
		return begin, end
	}
	first, next := daysOf(l.Calendar, shown)
	return shownAt(offsets, first, math.MinInt64), shownAt(offsets, next, second)
}

// daysOf gives the local seconds at which the days, week or month begin in which a local second lies, and the next.
func daysOf(calendar string, shown int64) (first, next int64) {
	first = shown - shown%daySeconds
	switch calendar {
	case policy.CalendarDay:
		return first, first + daySeconds
	case policy.CalendarWeek:
		// 1970 began on a Thursday, weeks begin on Mondays.
		first -= (first/daySeconds + 3) % 7 * daySeconds
		return first, first + 7*daySeconds
	default:
		year, month, _ := time.Unix(shown, 0).UTC().Date()
		return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC).Unix()
	}
}

// shownAt gives the first second after that one at which clocks of the zone show a local second. One that they skip is the
// end of the gap.
func shownAt(offsets [][2]int64, shown, after int64) int64 {
	for s := range offsets {
		second := shown - offsets[s][1]
		if s > 0 {
			second = max(second, offsets[s][0])
		}
		if (s+1 == len(offsets) || second < offsets[s+1][0]) && second > after {
			return second
		}
	}
	return after + 1 // not to be met: the last offset holds for ever
}
