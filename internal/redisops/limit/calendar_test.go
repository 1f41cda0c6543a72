package limit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// calendarLimit gives a limit of 5 requests by the clocks of a zone.
func calendarLimit(calendar, zone string) policy.Limit {
	l := fixedWindow(5, policy.CalendarWindow(calendar))
	l.Calendar, l.TimeZone = calendar, zone
	return l
}

func withRequests(l policy.Limit, requests int64) policy.Limit {
	l.Requests = requests
	return l
}

func TestCalendarWindows(t *testing.T) {
	type moment struct {
		// at is when 1 request is made, and begin when its window began.
		at, begin string
		// want is the row, which tells when the window ends.
		want string
	}
	tests := map[string]struct {
		calendar, zone string
		moments        []moment
	}{
		"minute": {policy.CalendarMinute, "Europe/Berlin", []moment{
			{"2026-06-01T10:00:30+02:00", "2026-06-01T10:00:00+02:00", "allow 4/5 reset 30s"},
			{"2026-06-01T10:00:59.999999+02:00", "2026-06-01T10:00:00+02:00", "allow 3/5 reset 1ms"},
			{"2026-06-01T10:01:00+02:00", "2026-06-01T10:01:00+02:00", "allow 4/5 reset 1m0s"},
		}},
		"hour of a zone that is half an hour off": {policy.CalendarHour, "Asia/Kolkata", []moment{
			{"2026-06-01T10:15:00+05:30", "2026-06-01T10:00:00+05:30", "allow 4/5 reset 45m0s"},
			{"2026-06-01T11:00:00+05:30", "2026-06-01T11:00:00+05:30", "allow 4/5 reset 1h0m0s"},
		}},
		"an hour that is skipped": {policy.CalendarHour, "Europe/Berlin", []moment{
			{"2026-03-29T01:59:00+01:00", "2026-03-29T01:00:00+01:00", "allow 4/5 reset 1m0s"},
			{"2026-03-29T03:00:00+02:00", "2026-03-29T03:00:00+02:00", "allow 4/5 reset 1h0m0s"},
		}},
		"an hour that is shown twice is two": {policy.CalendarHour, "Europe/Berlin", []moment{
			{"2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+02:00", "allow 4/5 reset 30m0s"},
			{"2026-10-25T02:30:00+01:00", "2026-10-25T02:00:00+01:00", "allow 4/5 reset 30m0s"},
			{"2026-10-25T02:59:00+01:00", "2026-10-25T02:00:00+01:00", "allow 3/5 reset 1m0s"},
		}},
		"half an hour that is shown twice": {policy.CalendarHour, "Australia/Lord_Howe", []moment{
			{"2026-04-05T01:45:00+11:00", "2026-04-05T01:00:00+11:00", "allow 4/5 reset 15m0s"},
			{"2026-04-05T01:45:00+10:30", "2026-04-05T01:30:00+10:30", "allow 4/5 reset 15m0s"},
			{"2026-04-05T02:00:00+10:30", "2026-04-05T02:00:00+10:30", "allow 4/5 reset 1h0m0s"},
		}},
		"half an hour that is skipped": {policy.CalendarHour, "Australia/Lord_Howe", []moment{
			{"2026-10-04T01:50:00+10:30", "2026-10-04T01:00:00+10:30", "allow 4/5 reset 10m0s"},
			{"2026-10-04T02:45:00+11:00", "2026-10-04T02:30:00+11:00", "allow 4/5 reset 15m0s"},
		}},
		"days of 23 and 25 hours": {policy.CalendarDay, "Europe/Berlin", []moment{
			{"2026-03-28T23:00:00+01:00", "2026-03-28T00:00:00+01:00", "allow 4/5 reset 1h0m0s"},
			{"2026-03-29T00:00:00+01:00", "2026-03-29T00:00:00+01:00", "allow 4/5 reset 23h0m0s"},
			{"2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00", "allow 3/5 reset 12h0m0s"},
			{"2026-03-30T00:00:00+02:00", "2026-03-30T00:00:00+02:00", "allow 4/5 reset 24h0m0s"},
			{"2026-10-25T00:00:00+02:00", "2026-10-25T00:00:00+02:00", "allow 4/5 reset 25h0m0s"},
			{"2026-10-25T02:30:00+01:00", "2026-10-25T00:00:00+02:00", "allow 3/5 reset 21h30m0s"},
		}},
		"a day half an hour longer": {policy.CalendarDay, "Australia/Lord_Howe", []moment{
			{"2026-04-05T00:00:00+11:00", "2026-04-05T00:00:00+11:00", "allow 4/5 reset 24h30m0s"},
			{"2026-10-04T00:00:00+10:30", "2026-10-04T00:00:00+10:30", "allow 4/5 reset 23h30m0s"},
		}},
		"a midnight that is skipped": {policy.CalendarDay, "Africa/Cairo", []moment{
			{"2026-04-23T23:30:00+02:00", "2026-04-23T00:00:00+02:00", "allow 4/5 reset 30m0s"},
			{"2026-04-24T01:00:00+03:00", "2026-04-24T01:00:00+03:00", "allow 4/5 reset 23h0m0s"},
			{"2026-04-24T12:00:00+03:00", "2026-04-24T01:00:00+03:00", "allow 3/5 reset 12h0m0s"},
		}},
		"a last hour that is shown twice": {policy.CalendarDay, "Africa/Cairo", []moment{
			{"2026-10-29T12:00:00+03:00", "2026-10-29T00:00:00+03:00", "allow 4/5 reset 13h0m0s"},
			{"2026-10-29T23:30:00+03:00", "2026-10-29T00:00:00+03:00", "allow 3/5 reset 1h30m0s"},
			{"2026-10-29T23:30:00+02:00", "2026-10-29T00:00:00+03:00", "allow 2/5 reset 30m0s"},
			{"2026-10-30T00:00:00+02:00", "2026-10-30T00:00:00+02:00", "allow 4/5 reset 24h0m0s"},
		}},
		"another midnight that is skipped": {policy.CalendarDay, "America/Havana", []moment{
			{"2026-03-07T23:30:00-05:00", "2026-03-07T00:00:00-05:00", "allow 4/5 reset 30m0s"},
			{"2026-03-08T01:00:00-04:00", "2026-03-08T01:00:00-04:00", "allow 4/5 reset 23h0m0s"},
		}},
		"a midnight that is shown twice begins one day": {policy.CalendarDay, "America/Havana", []moment{
			{"2026-10-31T23:30:00-04:00", "2026-10-31T00:00:00-04:00", "allow 4/5 reset 30m0s"},
			{"2026-11-01T00:30:00-04:00", "2026-11-01T00:00:00-04:00", "allow 4/5 reset 24h30m0s"},
			{"2026-11-01T00:30:00-05:00", "2026-11-01T00:00:00-04:00", "allow 3/5 reset 23h30m0s"},
		}},
		"a day that is skipped": {policy.CalendarDay, "Pacific/Apia", []moment{
			{"2011-12-29T12:00:00-10:00", "2011-12-29T00:00:00-10:00", "allow 4/5 reset 12h0m0s"},
			{"2011-12-31T00:00:00+14:00", "2011-12-31T00:00:00+14:00", "allow 4/5 reset 24h0m0s"},
		}},
		"weeks begin on Monday": {policy.CalendarWeek, "Europe/Berlin", []moment{
			{"2026-03-23T00:00:00+01:00", "2026-03-23T00:00:00+01:00", "allow 4/5 reset 167h0m0s"},
			{"2026-03-29T23:00:00+02:00", "2026-03-23T00:00:00+01:00", "allow 3/5 reset 1h0m0s"},
			{"2026-10-19T00:00:00+02:00", "2026-10-19T00:00:00+02:00", "allow 4/5 reset 169h0m0s"},
			{"2026-12-31T00:00:00+01:00", "2026-12-28T00:00:00+01:00", "allow 4/5 reset 96h0m0s"},
			{"2027-01-03T23:59:59+01:00", "2026-12-28T00:00:00+01:00", "allow 3/5 reset 1s"},
		}},
		"months": {policy.CalendarMonth, "Europe/Berlin", []moment{
			{"2026-01-31T23:59:59+01:00", "2026-01-01T00:00:00+01:00", "allow 4/5 reset 1s"},
			{"2026-02-01T00:00:00+01:00", "2026-02-01T00:00:00+01:00", "allow 4/5 reset 672h0m0s"},
			{"2026-03-01T00:00:00+01:00", "2026-03-01T00:00:00+01:00", "allow 4/5 reset 743h0m0s"},
			{"2026-04-30T12:00:00+02:00", "2026-04-01T00:00:00+02:00", "allow 4/5 reset 12h0m0s"},
			{"2026-10-01T00:00:00+02:00", "2026-10-01T00:00:00+02:00", "allow 4/5 reset 745h0m0s"},
			{"2026-12-31T12:00:00+01:00", "2026-12-01T00:00:00+01:00", "allow 4/5 reset 12h0m0s"},
			{"2027-01-01T00:00:00+01:00", "2027-01-01T00:00:00+01:00", "allow 4/5 reset 744h0m0s"},
		}},
		"leap years": {policy.CalendarMonth, "UTC", []moment{
			{"2000-02-29T23:00:00Z", "2000-02-01T00:00:00Z", "allow 4/5 reset 1h0m0s"},
			{"2027-02-28T23:00:00Z", "2027-02-01T00:00:00Z", "allow 4/5 reset 1h0m0s"},
			{"2028-02-28T23:00:00Z", "2028-02-01T00:00:00Z", "allow 4/5 reset 25h0m0s"},
			{"2028-03-01T00:00:00Z", "2028-03-01T00:00:00Z", "allow 4/5 reset 744h0m0s"},
			{"2100-02-28T23:00:00Z", "2100-02-01T00:00:00Z", "allow 4/5 reset 1h0m0s"},
		}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", calendarLimit(test.calendar, test.zone)))
				used := int64(0)
				begin := ""
				for i, m := range test.moments {
					w.steer(sinceT0(t, m.at))
					if got := w.act("charge 1"); got != m.want {
						t.Fatalf("moment %d: %s, want %s", i, got, m.want)
					}
					if used++; m.begin != begin {
						used, begin = 1, m.begin
					}
					want := fmt.Sprintf("K%s/%s %d %d", test.calendar, test.zone, (t0+sinceT0(t, m.begin).Microseconds())/1000, used)
					if got := w.do("HGET", w.key("shop/api"), "default"); got != want {
						t.Errorf("moment %d: the state is %q, want %q", i, got, want)
					}
				}
			})
		})
	}
}

// sinceT0 gives a time as steer takes it.
func sinceT0(t *testing.T, text string) time.Duration {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at.Sub(time.UnixMicro(t0))
}

func TestCalendarsDenyAndRefundAsOtherWindows(t *testing.T) {
	day := one("shop/api", calendarLimit(policy.CalendarDay, "UTC"))
	elsewhere := one("shop/api", calendarLimit(policy.CalendarDay, "Asia/Kolkata"))
	known := one("shop/api", calendarLimit(policy.CalendarDay, "Asia/Kolkata"))
	known.TimeZones = map[string][][2]int64{"Asia/Kolkata": {{0, 18_000}, {1_000_000_000, 19_800}}}
	none := withRequests(calendarLimit(policy.CalendarDay, "UTC"), 0)
	noon := 4 * time.Hour // t0 is 08:00
	tests := map[string][]act{
		"denied until midnight": {
			{at: noon, do: "charge 5", want: "allow 0/5 reset 12h0m0s"},
			{at: noon, do: "charge 1", want: "deny 0/5 reset 12h0m0s retry 12h0m0s"},
			{at: noon, do: "charge 6", want: "deny 0/5 reset 12h0m0s retry 24h0m0s"},
			{at: noon + 12*time.Hour, do: "charge 5", want: "allow 0/5 reset 24h0m0s"},
		},
		"the clock goes back": {
			{at: noon + 48*time.Hour, do: "charge 5", want: "allow 0/5 reset 12h0m0s"},
			{at: noon, do: "charge 1", want: "deny 0/5 reset 12h0m0s retry 12h0m0s"},
			{at: noon + 12*time.Hour, do: "charge 1", want: "allow 4/5 reset 24h0m0s"},
		},
		"refunds": {
			{at: noon, do: "charge 5 #a", want: "allow 0/5 reset 12h0m0s"},
			{at: noon, do: "refund 2 #a", want: "allow 2/5 reset 12h0m0s"},
			{at: noon + 12*time.Hour - time.Second, do: "charge 1 #b", want: "allow 1/5 reset 1s"},
			{at: noon + 12*time.Hour, do: "charge 1", want: "allow 4/5 reset 24h0m0s"},
			{at: noon + 12*time.Hour, do: "refund 1 #b", want: "allow 4/5 reset 24h0m0s"},
		},
		"another zone, calendar or plain window is another window": {
			{at: noon, do: "charge 5", want: "allow 0/5 reset 12h0m0s"},
			{change: elsewhere, at: noon, do: "charge 1", want: "allow 4/5 reset 6h30m0s"},
			// What is known of the zone may change.
			{change: known, at: noon, do: "charge 1", want: "allow 3/5 reset 6h30m0s"},
			{change: one("shop/api", fixedWindow(5, 24*time.Hour)), at: noon, do: "charge 1", want: "allow 4/5 reset 12h0m0s"},
			{change: day, at: noon, do: "charge 1", want: "allow 4/5 reset 12h0m0s"},
		},
		"0 denies all": {
			{change: one("shop/api", none), at: noon, do: "charge 1", want: "deny 0/0 reset 0s retry 24h0m0s blocked"},
		},
	}
	server := redistest.Start(t)
	for name, acts := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				startOn(t, server, mode, true, day).playOne(t, acts)
			})
		})
	}
}

// Else it would fail in the middle of a decision.
func TestAPolicyWithoutTheOffsetsOfItsZoneIsRefused(t *testing.T) {
	server := redistest.Start(t)
	for name, zones := range map[string]map[string][][2]int64{
		"no zones": nil, "another zone": {"UTC": {{0, 0}}}, "no offsets": {"Asia/Kolkata": {}},
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", calendarLimit(policy.CalendarDay, "Asia/Kolkata")))
				w.policies["shop/api"].TimeZones = zones
				if mode == library.ModeFunctions {
					if err := library.Load(context.Background(), w.client, w.text(), true); err != nil {
						t.Fatal(err)
					}
				}
				const want = "PENSTOCK_BADARG policy is not the JSON document of a RateLimit"
				if reply, err := w.raw("penstock_limit", []string{w.key("shop/api")}, "shop/api", 1, ""); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, %v", reply, err)
				}
			})
		})
	}
}
