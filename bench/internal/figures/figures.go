// Package figures reduces what was measured in several rounds to what a report shows.
package figures

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Spread is a median over rounds, with the least and the greatest.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf gives the spread of one figure of each element; zero when there is none.
func SpreadOf[E any](elements []E, figure func(E) float64) Spread {
	if len(elements) == 0 {
		return Spread{}
	}
	values := make([]float64, len(elements))
	for i := range elements {
		values[i] = figure(elements[i])
	}
	slices.SortFunc(values, cmp.Compare[float64])
	middle := len(values) / 2
	median := values[middle]
	if len(values)%2 == 0 {
		median = (values[middle-1] + values[middle]) / 2
	}
	return Spread{Median: median, Min: values[0], Max: values[len(values)-1]}
}

// String gives "1.42 (1.39-1.45)".
func (s Spread) String() string { return fmt.Sprintf("%.2f (%.2f-%.2f)", s.Median, s.Min, s.Max) }

// Milliseconds gives a duration as a number of them.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Microseconds gives a duration as a number of them.
func Microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
