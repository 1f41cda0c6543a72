package limit_test

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// windowsScript gives, for the limit in ARGV[1], its zone's offsets in ARGV[2] and each time behind them, begin and end of
// the window.
func windowsScript(tb testing.TB) string {
	tb.Helper()
	core, found := strings.CutSuffix(library.LimitScript.Plain().Text, "return limit_one(KEYS, ARGV, by_document, false)\n")
	if !found {
		tb.Fatal("the script of a decision ends otherwise")
	}
	return core + `
local asked, windows = cjson.decode(ARGV[1]), {}
asked.window, asked.offsets = asked.windowMs * 1000, cjson.decode(ARGV[2])
for i = 3, #ARGV do
  local begin, finish = calendar_window(asked, tonumber(ARGV[i]))
  windows[i - 2] = append('', begin) .. ' ' .. append('', finish)
end
return windows
`
}

// TestCalendarsHaveTheWindowsThatGoKnows compares 400 times of a zone at once, of which the half lie beside changes of the
// clocks.
func TestCalendarsHaveTheWindowsThatGoKnows(t *testing.T) {
	client := redistest.Start(t).Client()
	script := windowsScript(t)
	rapid.Check(t, func(rt *rapid.T) {
		l, offsets := drawCalendar(rt)
		args := []any{"EVAL", script, 0}
		for _, argument := range []any{l, offsets} {
			document, err := json.Marshal(argument)
			if err != nil {
				rt.Fatal(err)
			}
			args = append(args, string(document))
		}
		times := drawTimes(rt, offsets)
		for _, at := range times {
			args = append(args, strconv.FormatInt(at, 10))
		}
		reply, err := client.Do(context.Background(), args...).StringSlice()
		if err != nil || len(reply) != len(times) {
			rt.Fatalf("%d of %d windows: %v", len(reply), len(times), err)
		}
		for i, at := range times {
			begin, end := calendarWindow(l, at)
			if want := strconv.FormatInt(begin, 10) + " " + strconv.FormatInt(end, 10); reply[i] != want {
				rt.Fatalf("%s of %s at %v (%d): %s, want %s", l.Calendar, l.TimeZone, time.UnixMicro(at).In(location(l.TimeZone)), at, reply[i], want)
			}
			if begin > at || end <= at || end-begin > 2*l.WindowMs*1000 {
				rt.Fatalf("%s of %s at %d: %d to %d is no window around it", l.Calendar, l.TimeZone, at, begin, end)
			}
		}
	})
}

// drawCalendar gives a limit, and the offsets of its zone in 20 years.
func drawCalendar(rt *rapid.T) (policy.Limit, [][2]int64) {
	l := fixedWindow(1, time.Hour)
	l.Calendar = rapid.SampledFrom([]string{
		policy.CalendarMinute, policy.CalendarHour, policy.CalendarDay, policy.CalendarWeek, policy.CalendarMonth,
	}).Draw(rt, "calendar")
	l.WindowMs = policy.CalendarWindow(l.Calendar).Milliseconds()
	l.TimeZone = rapid.SampledFrom(modelZones).Draw(rt, "zone")
	first := time.Date(rapid.IntRange(1975, 2100).Draw(rt, "year"), 1, 1, 0, 0, 0, 0, time.UTC)
	return l, offsetsOf(l.TimeZone, first, first.AddDate(20, 0, 0))
}

// drawTimes gives times between the first and the last of the offsets, away from both so that windows are whole.
func drawTimes(rt *rapid.T, offsets [][2]int64) []int64 {
	const month = 32 * 24 * 3600
	first := offsets[0][0] + month
	last := first + 19*365*24*3600
	// A second is enough to find what is off by one.
	near := rapid.OneOf(rapid.Int64Range(-3, 3), rapid.Int64Range(-2*24*3600, 2*24*3600), rapid.SampledFrom([]int64{-3600, -3601, 3600, 3599, 1800, 1799}))
	var times []int64
	for range 200 {
		change := rapid.SampledFrom(offsets).Draw(rt, "change")[0] + near.Draw(rt, "near")
		times = append(times, min(max(change, first), last), rapid.Int64Range(first, last).Draw(rt, "second"))
	}
	for i := range times {
		times[i] = times[i]*1_000_000 + int64(i)*2500
	}
	return times
}
