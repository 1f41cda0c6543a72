package main

import (
	"fmt"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

// Units of figures.
const (
	unitMs    = "ms"
	unitS     = "s"
	unitMiB   = "MiB"
	unitCount = ""
)

// figure is one thing that was measured.
type figure struct {
	Name string `json:"name"`
	Unit string `json:"unit,omitempty"`
	// Value is nil when what was to be measured did not happen as long as it was watched.
	Value *float64 `json:"value"`
	// Baseline is the same under the same load without the fault, where that says something.
	Baseline *float64 `json:"baseline,omitempty"`
	// Least and Most bound what is wanted; without both, nothing is.
	Least *float64 `json:"least,omitempty"`
	Most  *float64 `json:"most,omitempty"`
	// Met tells whether the value is within the bounds; nil without any.
	Met *bool `json:"met,omitempty"`
}

// The constructors: a value, and then what is known beside it.

func ms(name string, d time.Duration) figure { return value(name, unitMs, figures.Milliseconds(d)) }

func number(name string, n int) figure { return value(name, unitCount, float64(n)) }

func value(name, unit string, v float64) figure { return figure{Name: name, Unit: unit, Value: &v} }

// after is a time that may not have come.
func after(name string, d time.Duration, happened bool) figure {
	if !happened {
		return figure{Name: name, Unit: unitS}
	}
	return value(name, unitS, d.Seconds())
}

// beside adds the baseline, in the unit of the value.
func (f figure) beside(baseline figure) figure {
	f.Baseline = baseline.Value
	return f
}

// most adds an upper bound, in the unit of the value.
func (f figure) most(bound float64) figure {
	f.Most = &bound
	return f.judged()
}

// exactly adds both bounds.
func (f figure) exactly(bound float64) figure {
	f.Least = &bound
	return f.most(bound)
}

func (f figure) judged() figure {
	met := f.Value != nil && (f.Most == nil || *f.Value <= *f.Most) && (f.Least == nil || *f.Value >= *f.Least)
	f.Met = &met
	return f
}

// row gives the columns of the report.
func (f figure) row() []string {
	wanted, verdict := "", ""
	switch {
	case f.Most != nil && *f.Most == 0:
		wanted = "none"
	case f.Least != nil && f.Most != nil:
		wanted = "exactly " + f.print(f.Most)
	case f.Most != nil:
		wanted = "at most " + f.print(f.Most)
	}
	if f.Met != nil {
		verdict = map[bool]string{true: "met", false: "NOT MET"}[*f.Met]
	}
	measured, baseline := "never", ""
	if f.Value != nil {
		measured = f.print(f.Value)
	}
	if f.Baseline != nil {
		baseline = f.print(f.Baseline)
	}
	return []string{"  " + f.Name, measured, baseline, wanted, verdict}
}

func (f figure) print(v *float64) string {
	switch f.Unit {
	case unitCount:
		return fmt.Sprintf("%.0f", *v)
	case unitS:
		return fmt.Sprintf("%.2f s", *v)
	default:
		return fmt.Sprintf("%.1f %s", *v, f.Unit)
	}
}
