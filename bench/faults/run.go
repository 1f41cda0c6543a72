package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/machine"
	"github.com/penstock-dev/penstock/bench/internal/process"
)

// plan is what a run does, and with which programs.
type plan struct {
	scenarios     []string
	callers, rate int
	policies      int
	quiet         time.Duration
	// Paths of the programs, and of the directory of CRDs.
	penstockd, operator, redis, crds string
}

// Names of the scenarios.
const (
	nameKill           = "kill"
	nameSlow           = "slow"
	nameRTT            = "rtt"
	nameSentinel       = "sentinel"
	nameCluster        = "cluster"
	nameClusterReplica = "cluster-replica"
	namePolicies       = "policies"
)

// kind is a scenario that can be run. Its work fills in figures; it fails only where it could not measure.
type kind struct {
	name, title string
	work        func(*runner, context.Context, *scenario) error
}

// kinds are all scenarios, in the order of the report.
func kinds() []kind {
	return []kind{
		{nameKill, "a Redis that keeps its data is killed, and started again after 4 s", (*runner).kill},
		{nameSlow, "every reply is 200 ms late for 4 s, and then the network takes all and gives nothing for 4 s", (*runner).slow},
		{nameRTT, "a round trip takes 6 ms, and once Redis stands still for 30 ms", (*runner).rtt},
		{nameSentinel, "the primary is killed, and three Sentinels promote its replica", (*runner).sentinel},
		{nameCluster, "one of three primaries of a Cluster is killed, without a replica, and started again after 5 s", (*runner).cluster},
		{nameClusterReplica, "one of three primaries of a Cluster is killed, and its replica takes over", (*runner).clusterReplica},
		{namePolicies, "the operator publishes many policies", (*runner).operatorWork},
	}
}

func names() []string {
	var all []string
	for _, k := range kinds() {
		all = append(all, k.name)
	}
	return all
}

// runner runs scenarios one after the other. It is for the main goroutine, see process.Start.
type runner struct {
	plan plan
	// plain is a server without persistence, which is never ended.
	plain *process.Redis
	// dir is for files.
	dir string
	// progress gets a line for each step.
	progress io.Writer
}

func (r *runner) run(ctx context.Context, name string) (*scenario, error) {
	for _, k := range kinds() {
		if k.name != name {
			continue
		}
		r.say("%s: %s", k.name, k.title)
		s := &scenario{Name: k.name, Title: k.title}
		err := s.shares(func() error { return k.work(r, ctx, s) })
		return s, err
	}
	return nil, fmt.Errorf("there is no scenario %q", name)
}

func (r *runner) say(format string, args ...any) { fmt.Fprintf(r.progress, format+"\n", args...) }

// add adds figures.
func (s *scenario) add(more ...figure) { s.Figures = append(s.Figures, more...) }

// clocks are CPU times.
type clocks struct {
	whole  machine.Time
	family time.Duration
	at     time.Time
}

func readClocks() (clocks, error) {
	whole, err := machine.ReadTime()
	family, familyErr := machine.FamilyCPUTime()
	return clocks{whole, family, time.Now()}, errors.Join(err, familyErr)
}

// shares fills in what others had of the machine while work was done.
func (s *scenario) shares(work func() error) error {
	before, err := readClocks()
	if err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	after, err := readClocks()
	if err != nil {
		return err
	}
	capacity := after.at.Sub(before.at).Seconds() * float64(runtime.NumCPU())
	others := (after.whole.Busy - before.whole.Busy) - (after.family - before.family)
	s.Others = min(1, max(0, others.Seconds()/capacity))
	s.Stolen = min(1, (after.whole.Stolen-before.whole.Stolen).Seconds()/capacity)
	return nil
}
