package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Algorithms of a Limit.
const (
	SlidingLog     = "SlidingLog"
	SlidingCounter = "SlidingCounter"
	FixedWindow    = "FixedWindow"
	TokenBucket    = "TokenBucket"
	Concurrency    = "Concurrency"
	Balance        = "Balance"
)

// Bounds of a Limit; the schema of the kind has the same.
const (
	MaxLimits             = 8
	MaxSlidingLogRequests = 1000
	// MaxSlidingCounterRequests is 2^33: with weights of 20 bits, products stay within MaxInteger.
	MaxSlidingCounterRequests = 1 << 33
	// MaxSlots bounds a Concurrency, which keeps an entry for each.
	MaxSlots  = 100_000
	MinWindow = 100 * time.Millisecond
	MaxWindow = 744 * time.Hour
)

// Limit is one limit of a policy.
type Limit struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	// Requests per window, 0 to MaxInteger. Of a Concurrency it is the number of slots, of a Balance what a subject has at
	// first.
	Requests int64 `json:"requests"`
	// WindowMs is the window in milliseconds; with a Calendar the longest that it has; 0 for Concurrency and Balance.
	WindowMs int64 `json:"windowMs"`
	// Burst is the capacity of a TokenBucket in tokens; 0 for other algorithms.
	Burst int64 `json:"burst,omitempty"`
	// TickUs is the unit of time of a TokenBucket in microseconds (see TickFor); 0 for other algorithms.
	TickUs int64 `json:"tickUs,omitempty"`
	// Calendar makes a FixedWindow begin with the minute, hour, day, week (Monday) or month of a time zone.
	Calendar string `json:"calendar,omitempty"`
	// TimeZone is the IANA name of the zone of a Calendar, whose offsets are in RateLimit.TimeZones. It is a part of the
	// state's signature.
	TimeZone string `json:"timeZone,omitempty"`
	// SlotTTLMs is how long a slot of a Concurrency is held at most, in milliseconds; 0 for other algorithms.
	SlotTTLMs int64 `json:"slotTtlMs,omitempty"`
}

// Calendars of a FixedWindow.
const (
	CalendarMinute = "Minute"
	CalendarHour   = "Hour"
	CalendarDay    = "Day"
	CalendarWeek   = "Week"
	CalendarMonth  = "Month"
)

// CalendarWindow gives the length of a calendar's windows, for a month that of 31 days; 0 for what is no calendar.
func CalendarWindow(calendar string) time.Duration {
	switch calendar {
	case CalendarMinute:
		return time.Minute
	case CalendarHour:
		return time.Hour
	case CalendarDay:
		return 24 * time.Hour
	case CalendarWeek:
		return 7 * 24 * time.Hour
	case CalendarMonth:
		return 31 * 24 * time.Hour
	default:
		return 0
	}
}

// TickFor gives the unit of time, in microseconds, in which a TokenBucket with that window counts.
//
// A bucket keeps what was used in units of token/window, so that refilling by the tokens of one tick is adding an
// integer and nothing is ever rounded: used tokens × ticks per window must stay within MaxInteger. The unit depends on the window
// only, so that a changed number of requests keeps what was used.
func TickFor(windowMs int64) int64 {
	switch {
	case windowMs <= time.Minute.Milliseconds():
		return 1
	case windowMs <= 24*time.Hour.Milliseconds():
		return 1_000
	default:
		return 1_000_000
	}
}

// MaxBurst gives the largest capacity that a TokenBucket with that window can count exactly (see TickFor): at least
// 10^8 tokens for every window.
func MaxBurst(windowMs int64) int64 {
	return MaxInteger / max(1, windowTicks(windowMs))
}

func windowTicks(windowMs int64) int64 {
	return windowMs * 1000 / TickFor(windowMs)
}

// original tells whether the limit is one that the first document format knows.
func (l *Limit) original() bool {
	return l.Calendar == "" && slices.Contains([]string{SlidingLog, FixedWindow, TokenBucket}, l.Algorithm)
}

func validateLimits(limits []Limit) error {
	if len(limits) < 1 || len(limits) > MaxLimits {
		return fmt.Errorf("limits: %d, want 1 to %d", len(limits), MaxLimits)
	}
	for i := range limits {
		l := &limits[i]
		if err := l.validate(); err != nil {
			return fmt.Errorf("limits[%d]: %w", i, err)
		}
		if slices.ContainsFunc(limits[:i], func(other Limit) bool { return other.Name == l.Name }) {
			return fmt.Errorf("limits[%d]: name %q is there twice", i, l.Name)
		}
		if l.Algorithm == Concurrency && len(limits) > 1 {
			return fmt.Errorf("limits[%d]: %s must be the only limit", i, Concurrency)
		}
	}
	return nil
}

func (l *Limit) validate() error {
	if !limitName.MatchString(l.Name) {
		return fmt.Errorf("name %q: want lower-case letters, digits and -", l.Name)
	}
	if l.Requests < 0 || l.Requests > MaxInteger {
		return fmt.Errorf("requests %d: want 0 to %d", l.Requests, int64(MaxInteger))
	}
	if err := l.validateTime(); err != nil {
		return err
	}
	if l.Algorithm != TokenBucket && (l.Burst != 0 || l.TickUs != 0) {
		return fmt.Errorf("burst and tickUs are for %s only", TokenBucket)
	}
	atMost := func(most int64) error {
		if l.Requests > most {
			return fmt.Errorf("requests %d: want at most %d for %s", l.Requests, most, l.Algorithm)
		}
		return nil
	}
	switch l.Algorithm {
	case SlidingLog:
		return atMost(MaxSlidingLogRequests)
	case SlidingCounter:
		return atMost(MaxSlidingCounterRequests)
	case Concurrency:
		return atMost(MaxSlots)
	case FixedWindow, Balance:
		return nil
	case TokenBucket:
		if most := MaxBurst(l.WindowMs); l.Requests > most || l.Burst > most || l.Burst < 1 {
			return fmt.Errorf("requests %d, burst %d: want at most %d for this window, and a burst of at least 1", l.Requests, l.Burst, most)
		}
		if l.TickUs != TickFor(l.WindowMs) {
			return fmt.Errorf("tickUs %d: want %d", l.TickUs, TickFor(l.WindowMs))
		}
		return nil
	default:
		return fmt.Errorf("algorithm %q: want %s, %s, %s, %s, %s or %s", l.Algorithm,
			SlidingLog, SlidingCounter, FixedWindow, TokenBucket, Concurrency, Balance)
	}
}

// validateTime checks the window, the calendar and the time to live of slots.
func (l *Limit) validateTime() error {
	shortest, longest := MinWindow.Milliseconds(), MaxWindow.Milliseconds()
	switch l.Algorithm {
	case Concurrency:
		if l.WindowMs != 0 || l.SlotTTLMs < shortest || l.SlotTTLMs > longest {
			return fmt.Errorf("windowMs %d, slotTtlMs %d: want 0, and %d to %d", l.WindowMs, l.SlotTTLMs, shortest, longest)
		}
	case Balance:
		if l.WindowMs != 0 {
			return fmt.Errorf("windowMs %d: want 0 for %s", l.WindowMs, Balance)
		}
	default:
		if l.WindowMs < shortest || l.WindowMs > longest {
			return fmt.Errorf("windowMs %d: want %d to %d", l.WindowMs, shortest, longest)
		}
	}
	if l.SlotTTLMs != 0 && l.Algorithm != Concurrency {
		return fmt.Errorf("slotTtlMs is for %s only", Concurrency)
	}
	if l.Calendar == "" {
		if l.TimeZone != "" {
			return errors.New("timeZone is for a calendar only")
		}
		return nil
	}
	if window := CalendarWindow(l.Calendar); l.Algorithm != FixedWindow || window.Milliseconds() != l.WindowMs {
		return fmt.Errorf("calendar %q: want Minute, Hour, Day, Week or Month, of a %s with the windowMs of it", l.Calendar, FixedWindow)
	}
	if l.TimeZone == "" || len(l.TimeZone) > 64 {
		return errors.New("timeZone: want 1 to 64 bytes with a calendar")
	}
	return nil
}
