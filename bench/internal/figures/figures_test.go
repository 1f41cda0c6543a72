package figures

import "testing"

func TestSpreadIsMedianWithMinAndMax(t *testing.T) {
	for name, test := range map[string]struct {
		values []float64
		want   Spread
	}{
		"none": {nil, Spread{}},
		"odd":  {[]float64{5, 1, 3}, Spread{Median: 3, Min: 1, Max: 5}},
		"even": {[]float64{4, 1, 3, 2}, Spread{Median: 2.5, Min: 1, Max: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := SpreadOf(test.values, func(v float64) float64 { return v }); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
