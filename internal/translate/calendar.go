package translate

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

const defaultTimeZone = "UTC"

// timeZones is the offsets of all time zones. Package time is not asked for them, since it prefers the database of the
// machine: the operator and the command line would compile one object to two policies.
//
//go:generate go run ../../hack/timezones $GOROOT/lib/time/zoneinfo.zip timezones.txt
//go:embed timezones.txt
var timeZones string

// zones finds the offsets of a time zone, as they are written, by its name.
var zones = sync.OnceValue(func() map[string]string {
	byName := map[string]string{}
	for line := range strings.Lines(timeZones) {
		names, offsets, found := strings.Cut(line, ": ")
		if strings.HasPrefix(line, "#") || !found {
			continue
		}
		for name := range strings.FieldsSeq(names) {
			byName[name] = offsets
		}
	}
	return byName
})

// calendar fills in the windows of a limit that begin with a unit of the calendar.
func calendar(l *v1.Limit, compiled *policy.Limit, path *field.Path) field.ErrorList {
	if l.Calendar == "" {
		if l.TimeZone != "" {
			return field.ErrorList{field.Forbidden(path.Child("timeZone"), "timeZone is for a limit with a calendar only; remove timeZone, or set calendar in the place of window")}
		}
		return nil
	}
	var errs field.ErrorList
	window := policy.CalendarWindow(string(l.Calendar))
	switch {
	case compiled.Algorithm != policy.FixedWindow:
		errs = append(errs, field.Forbidden(path.Child("calendar"), "calendar is for algorithm FixedWindow only; remove calendar or set algorithm: FixedWindow"))
	case window == 0:
		errs = append(errs, field.NotSupported(path.Child("calendar"), l.Calendar,
			[]v1.Calendar{v1.CalendarMinute, v1.CalendarHour, v1.CalendarDay, v1.CalendarWeek, v1.CalendarMonth}))
	}
	if l.Window != "" {
		errs = append(errs, field.Forbidden(path.Child("window"), "a calendar has windows of its own; remove window, or remove calendar"))
	}
	compiled.Calendar, compiled.WindowMs = string(l.Calendar), window.Milliseconds()

	compiled.TimeZone = l.TimeZone
	if compiled.TimeZone == "" {
		compiled.TimeZone = defaultTimeZone
	}
	if _, found := zones()[compiled.TimeZone]; !found {
		errs = append(errs, field.Invalid(path.Child("timeZone"), l.TimeZone,
			"there is no such time zone; want the IANA name of one, such as Europe/Berlin"))
	}
	return errs
}

// addTimeZones fills in the offsets of the zones that a policy's calendars have: each once, however many limits it has.
func addTimeZones(compiled *policy.RateLimit, path *field.Path) field.ErrorList {
	names := compiled.CalendarZones()
	if len(names) > policy.MaxTimeZones {
		return field.ErrorList{field.Invalid(path.Child("overrides"), field.OmitValueType{}, fmt.Sprintf(
			"the calendars of limits and overrides have %d time zones together, and may have %d; use fewer, or move some overrides to a RateLimit of their own",
			len(names), policy.MaxTimeZones))}
	}
	for _, name := range names {
		if compiled.TimeZones == nil {
			compiled.TimeZones = make(map[string][][2]int64, len(names))
		}
		compiled.TimeZones[name] = offsets(name)
	}
	return nil
}

// offsets gives the offsets of a time zone from UTC (see policy.RateLimit); none of a zone that is not there.
func offsets(zone string) [][2]int64 {
	var offsets [][2]int64
	for entry := range strings.FieldsSeq(zones()[zone]) {
		since, offset, _ := strings.Cut(entry, "/")
		offsets = append(offsets, [2]int64{mustInteger(since), mustInteger(offset)})
	}
	return offsets
}

// mustInteger is for what is built in.
func mustInteger(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("translate: timezones.txt: %v", err))
	}
	return n
}
