package main

import (
	"math/rand/v2"
	"slices"
)

// Times are in microseconds since the beginning of the first window, and never go back.

var windowUs = window.Microseconds()

// arrival is a process by which requests arrive, whatever is answered.
type arrival struct {
	name string
	// times gives those of so many windows of a limit.
	times func(limit int64, windows int) []int64
}

var arrivals = []arrival{
	{"Poisson, 0.5 × the limit", func(limit int64, windows int) []int64 { return poisson(0.5, limit, windows) }},
	{"Poisson, 1 × the limit", func(limit int64, windows int) []int64 { return poisson(1, limit, windows) }},
	{"Poisson, 2 × the limit", func(limit int64, windows int) []int64 { return poisson(2, limit, windows) }},
	{"Poisson, 10 × the limit", func(limit int64, windows int) []int64 { return poisson(10, limit, windows) }},
	{"evenly, exactly the limit", steady},
	{"bursts at the ends of windows", bursts},
	{"burst after a pause, then a flood", floods},
}

// seed makes every run see the same arrivals.
const seed = 42

// poisson gives arrivals that know nothing of each other, on average so many times the limit.
func poisson(load float64, limit int64, windows int) []int64 {
	random := rand.New(rand.NewPCG(seed, uint64(load*1000)))
	mean := float64(windowUs) / (load * float64(limit))
	var times []int64
	for at := 0.0; ; {
		at += random.ExpFloat64() * mean
		if int64(at) >= int64(windows)*windowUs {
			return times
		}
		times = append(times, int64(at))
	}
}

// steady gives arrivals at equal distances, as many as the limit has room for.
func steady(limit int64, windows int) []int64 {
	return evenly(0, int64(windows)*windowUs, limit*int64(windows))
}

// bursts gives one around each edge of the fixed windows: as many requests as the limit in the last hundredth of a
// window, and as many again in the first of the next.
func bursts(limit int64, windows int) []int64 {
	var times []int64
	for n := 1; n < windows; n++ {
		edge := int64(n) * windowUs
		times = append(times, evenly(edge-windowUs/100, edge+windowUs/100, 2*limit)...)
	}
	return times
}

// floods gives, in every three windows: none, but for a burst of the limit at the very end; ten times the limit; none.
// The counter of a window that had its requests at the end says the least of what a sliding window sees.
func floods(limit int64, windows int) []int64 {
	var times []int64
	for n := 0; n+3 <= windows; n += 3 {
		edge := int64(n+1) * windowUs
		times = append(times, evenly(edge-windowUs/100, edge, limit)...)
		times = append(times, evenly(edge, edge+windowUs, 10*limit)...)
	}
	return times
}

// evenly gives n times from begin on, before end.
func evenly(begin, end, n int64) []int64 {
	times := make([]int64, n)
	for i := range times {
		times[i] = begin + int64(i)*(end-begin)/n
	}
	return times
}

// visit is work that comes, wants a slot, and ends.
type visit struct {
	begins, ends int64
}

// visits gives work that comes like poisson and takes as long as chance has it, so that on average twice as many slots
// are wanted as there are. One in ten never says that it has ended.
func visits(slots int64, windows int) []visit {
	random := rand.New(rand.NewPCG(seed, uint64(slots)))
	const perWindow = 5 // how often a slot changes hands
	mean := float64(windowUs) / perWindow
	var all []visit
	for at := 0.0; ; {
		at += random.ExpFloat64() * mean / float64(2*slots)
		if int64(at) >= int64(windows)*windowUs {
			return all
		}
		v := visit{begins: int64(at), ends: int64(at + 1 + random.ExpFloat64()*mean)}
		if random.IntN(10) == 0 {
			v.ends = never
		}
		all = append(all, v)
	}
}

// never is after all else.
const never = int64(1) << 60

// step is one call about a slot.
type step struct {
	at      int64
	visit   int
	acquire bool
}

// steps gives the calls of all visits in their order.
func steps(all []visit) []step {
	var order []step
	for i, v := range all {
		order = append(order, step{at: v.begins, visit: i, acquire: true})
		if v.ends < never {
			order = append(order, step{at: v.ends, visit: i})
		}
	}
	slices.SortStableFunc(order, func(a, b step) int { return int(a.at - b.at) })
	return order
}
