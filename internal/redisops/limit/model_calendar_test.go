package limit_test

import (
	"sync"
	"time"
	_ "time/tzdata" // the same zones on each machine

	"github.com/penstock-dev/penstock/internal/policy"
)

// modelZones change their clocks at midnight, by half an hour, over the date line, in the southern summer, or never.
var modelZones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "Africa/Cairo",
	"Pacific/Apia", "Pacific/Chatham", "America/Santiago", "America/Nuuk", "Asia/Beirut", "Atlantic/Azores",
	"Antarctica/Troll", "Asia/Kathmandu", "Pacific/Kiritimati", "Africa/Casablanca", "Asia/Tehran",
}

var modelLocations sync.Map

func location(zone string) *time.Location {
	if known, found := modelLocations.Load(zone); found {
		return known.(*time.Location)
	}
	l, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	modelLocations.Store(zone, l)
	return l
}

// offsetsOf gives the offsets of a zone from one time to another, as a policy has them.
func offsetsOf(zone string, from, to time.Time) [][2]int64 {
	var offsets [][2]int64
	for at := from.In(location(zone)); ; {
		_, offset := at.Zone()
		if n := len(offsets); n == 0 || offsets[n-1][1] != int64(offset) {
			offsets = append(offsets, [2]int64{at.Unix(), int64(offset)})
		}
		end := boundAfter(at)
		if end.IsZero() || end.After(to) {
			return offsets
		}
		at = end
	}
}

// zoned gives the policy with the offsets of its calendars from 2010 to 2040, but for those that it has already.
func zoned(p policy.RateLimit) policy.RateLimit {
	zones := map[string][][2]int64{}
	for _, zone := range p.CalendarZones() {
		zones[zone] = p.TimeZones[zone]
		if zones[zone] == nil {
			zones[zone] = offsetsOf(zone, time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2041, 1, 1, 0, 0, 0, 0, time.UTC))
		}
	}
	p.TimeZones = zones
	return p
}

// boundAfter gives the end of the time's zone; zero is never. On the last day of a leap year ZoneBounds may give the begin
// of that day, which is no change of the clocks; nor is the end of that day, which is given here.
func boundAfter(at time.Time) time.Time {
	_, end := at.ZoneBounds()
	if !end.IsZero() && !end.After(at) {
		return end.Add(24 * time.Hour)
	}
	return end
}

// calendarWindow gives begin and end of the window that now lies in, by the clocks that Go knows.
func calendarWindow(l policy.Limit, now int64) (begin, end int64) {
	at := time.UnixMicro(now).In(location(l.TimeZone))
	year, month, day := at.Date()
	var first, next time.Time
	switch l.Calendar {
	case policy.CalendarMinute, policy.CalendarHour:
		return hourOf(l, at)
	case policy.CalendarDay:
		first, next = date(year, month, day), date(year, month, day+1)
	case policy.CalendarWeek:
		monday := day - (int(at.Weekday())+6)%7
		first, next = date(year, month, monday), date(year, month, monday+7)
	default:
		first, next = date(year, month, 1), date(year, month+1, 1)
	}
	return firstShowing(first, first.Add(-48*time.Hour), at.Location()).UnixMicro(), firstShowing(next, at, at.Location()).UnixMicro()
}

// date is a time that clocks show, which stands as one of UTC.
func date(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

func shownBy(at time.Time) time.Time {
	_, offset := at.Zone()
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// firstShowing gives the first time from a time on at which clocks show that, or more.
func firstShowing(shown, from time.Time, zone *time.Location) time.Time {
	for at := from.In(zone); ; {
		_, offset := at.Zone()
		reached := shown.Add(-time.Duration(offset) * time.Second)
		if reached.Before(at) {
			reached = at
		}
		end := boundAfter(at)
		if end.IsZero() || reached.Before(end) {
			if shownBy(reached.In(zone)).Before(shown) {
				panic("the clocks do not show it")
			}
			return reached
		}
		at = end
	}
}

// hourOf gives the minute or hour that clocks show, cut where they are changed.
func hourOf(l policy.Limit, at time.Time) (begin, end int64) {
	length := policy.CalendarWindow(l.Calendar)
	since := time.Duration(at.Second())*time.Second + time.Duration(at.Nanosecond())
	if l.Calendar == policy.CalendarHour {
		since += time.Duration(at.Minute()) * time.Minute
	}
	first := at.Add(-since)
	last := first.Add(length)
	_, offset := at.Zone()
	for t := at; ; {
		start, _ := t.ZoneBounds()
		if start.IsZero() || start.Before(first) {
			break
		}
		t = start.Add(-time.Second)
		if _, before := t.Zone(); before != offset {
			first = start
			break
		}
	}
	for t := at; ; {
		stop := boundAfter(t)
		if stop.IsZero() || stop.After(last) {
			break
		}
		t = stop
		if _, after := t.Zone(); after != offset {
			last = stop
			break
		}
	}
	return first.UnixMicro(), last.UnixMicro()
}
