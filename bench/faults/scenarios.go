package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// kill ends a Redis under load and starts it again.
func (r *runner) kill(ctx context.Context, s *scenario) error {
	server, err := r.startRedis(ctx, keeping...)
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := publish(ctx, redisops.Config{Addresses: []string{server.Address}}); err != nil {
		return err
	}
	about := questions(subjects)
	d, err := r.startPenstockd(ctx, about, "--redis", "redis://"+server.Address)
	if err != nil {
		return err
	}
	defer d.stop()
	t, err := r.try(ctx, d, about,
		step{"Redis is killed", func(context.Context) error { server.Process.Kill(); return nil }, 4 * time.Second},
		step{"Redis answers again", server.Again, 6 * time.Second})
	if err != nil {
		return err
	}
	s.add(t.answered("from the kill to the end", between(t.answers, t.from(0, 1)))...)
	s.add(number("  enforced while Redis was gone", count(between(t.answers, t.from(0, 0)), enforced)))
	s.add(t.recovered("Redis answers", t.steps[1].begun, 5*time.Second)...)
	s.add(t.kept(t.from(0, 0))...)
	s.conclude(t, d)
	return nil
}

// throughNetwork starts penstockd behind a network that can be made bad.
func (r *runner) throughNetwork(ctx context.Context, about []question) (*network, *daemon, error) {
	if err := publish(ctx, redisops.Config{Addresses: []string{r.plain.Address}}); err != nil {
		return nil, nil, err
	}
	n, err := startNetwork(r.plain.Address)
	if err != nil {
		return nil, nil, err
	}
	d, err := r.startPenstockd(ctx, about, "--redis", "redis://"+n.address)
	if err != nil {
		n.stop()
		return nil, nil, err
	}
	return n, d, nil
}

// slow delays replies by far more than penstockd waits, and then swallows everything.
func (r *runner) slow(ctx context.Context, s *scenario) error {
	about := questions(subjects)
	n, d, err := r.throughNetwork(ctx, about)
	if err != nil {
		return err
	}
	defer n.stop()
	defer d.stop()
	heal := func(ctx context.Context) error { n.heal(ctx); return nil }
	t, err := r.try(ctx, d, about,
		step{"replies are 200 ms late", func(context.Context) error { return n.delay(200 * time.Millisecond) }, 4 * time.Second},
		step{"the network is good again", heal, 4 * time.Second},
		step{"the network swallows all", func(context.Context) error { return n.blackHole() }, 4 * time.Second},
		step{"the network is good again", heal, 4 * time.Second})
	if err != nil {
		return err
	}
	p99 := func(during span) figure {
		return ms("  p99", quantile(between(t.answers, during), 0.99)).beside(ms("", quantile(t.calmly(), 0.99))).most(15)
	}
	for i, what := range []string{"while replies are late", "while all is swallowed"} {
		during := t.from(2*i, 2*i)
		all := t.answered(what, between(t.answers, during))
		s.add(append(all[:len(all)-1], p99(during))...)
		healed := t.steps[2*i+1]
		// What comes after the next fault has begun does not count.
		one := *t
		one.recording = &recording{answers: between(t.answers, span{0, healed.to})}
		s.add(one.recovered("the network is good", healed.begun, 5*time.Second)...)
	}
	s.add(t.kept(t.from(0, 2))...)
	s.conclude(t, d)
	return nil
}

// rtt has a Redis that is far away, but not too far, and one moment in which it stands still.
func (r *runner) rtt(ctx context.Context, s *scenario) error {
	about := questions(subjects)
	n, d, err := r.throughNetwork(ctx, about)
	if err != nil {
		return err
	}
	defer n.stop()
	defer d.stop()
	const spike = 30 * time.Millisecond
	t, err := r.try(ctx, d, about,
		step{"a round trip takes 6 ms", func(context.Context) error { return n.delay(6 * time.Millisecond) }, 5 * time.Second},
		step{"Redis stands still for 30 ms", func(ctx context.Context) error {
			if err := r.plain.Client.Do(ctx, "CLIENT", "PAUSE", spike.Milliseconds(), "ALL").Err(); err != nil {
				return err
			}
			return wait(ctx, spike)
		}, 3 * time.Second})
	if err != nil {
		return err
	}
	far := between(t.answers, t.from(0, 0))
	all := t.answered("while a round trip takes 6 ms", far)
	all[2] = all[2].exactly(0)
	s.add(all...)
	s.add(t.answered("from the standstill on", between(t.answers, t.from(1, 1)))...)
	s.add(t.recovered("it goes on", t.steps[1].begun, 100*time.Millisecond)...)
	s.add(t.kept(t.from(0, 1))...)
	s.conclude(t, d)
	return nil
}

// sentinel kills a primary and watches until its replica decides.
func (r *runner) sentinel(ctx context.Context, s *scenario) error {
	servers, sentinels, err := r.startSentinel(ctx)
	if err != nil {
		return err
	}
	defer servers.stop()
	defer sentinels.stop()
	err = publish(ctx, redisops.Config{Topology: policy.TopologySentinel, Addresses: sentinels.addresses(), MasterName: masterName})
	if err != nil {
		return err
	}
	about := questions(subjects)
	d, err := r.startPenstockd(ctx, about, "--redis", "redis://"+strings.Join(sentinels.addresses(), ","),
		"--redis-topology", string(policy.TopologySentinel), "--redis-master-name", masterName)
	if err != nil {
		return err
	}
	defer d.stop()
	t, err := r.try(ctx, d, about,
		step{"the primary is killed", func(context.Context) error { servers[0].Process.Kill(); return nil }, 0},
		awaitPromotion(servers[1], 0),
		step{"the Sentinels tell of it", func(ctx context.Context) error { return awaitTold(ctx, sentinels, servers[1]) }, 5 * time.Second})
	if err != nil {
		return err
	}
	s.add(t.answered("from the kill to the end", between(t.answers, t.from(0, 2)))...)
	s.add(after("promoted after the kill", t.steps[1].begun-t.steps[0].from, true))
	s.add(after("told by a Sentinel after the promotion", t.steps[2].begun-t.steps[1].begun, true))
	s.add(t.recovered("the promotion", t.steps[1].begun, 2*time.Second)...)
	s.add(t.kept(t.from(0, 2))...)
	s.conclude(t, d)
	return nil
}

// clustered starts a cluster and penstockd. The first primary is the one that will be killed.
func (r *runner) clustered(ctx context.Context, about []question, replicas int) (group, *daemon, error) {
	nodes, err := r.startCluster(ctx, replicas)
	if err != nil {
		return nil, nil, err
	}
	err = publish(ctx, redisops.Config{Topology: policy.TopologyCluster, Addresses: nodes.addresses()})
	if err != nil {
		nodes.stop()
		return nil, nil, err
	}
	d, err := r.startPenstockd(ctx, about, "--redis", "redis://"+strings.Join(nodes.addresses(), ","),
		"--redis-topology", string(policy.TopologyCluster))
	if err != nil {
		nodes.stop()
		return nil, nil, err
	}
	return nodes, d, nil
}

// ofLost tells whether an answer is about a slot of the primary that is killed.
func ofLost(a answer) bool {
	_, last := slotsOf(0)
	return a.slot <= last
}

func ofOthers(a answer) bool { return !ofLost(a) }

// others tells how answers about slots of the other primaries came: as if nothing had happened.
func (t *trial) others(during span) []figure {
	kept, quiet := where(between(t.answers, during), ofOthers), where(t.calmly(), ofOthers)
	calmP99 := quantile(quiet, 0.99)
	return []figure{
		number("answers about slots of the others", len(kept)).beside(number("", len(quiet))),
		number("  errors", count(kept, failed)).beside(number("", count(quiet, failed))).exactly(0),
		number("  degraded", count(kept, degraded)).beside(number("", count(quiet, degraded))).exactly(0),
		ms("  longest", longest(kept)).beside(ms("", longest(quiet))).most(25),
		ms("  p50", quantile(kept, 0.5)).beside(ms("", quantile(quiet, 0.5))),
		// Twice is within the noise of two halves of one load.
		ms("  p99", quantile(kept, 0.99)).beside(ms("", calmP99)).most(2*float64(calmP99)/float64(time.Millisecond) + 1),
	}
}

// lost tells how answers about slots of the primary that is gone came.
func (t *trial) lost(during span) []figure {
	gone, quiet := where(between(t.answers, during), ofLost), where(t.calmly(), ofLost)
	return []figure{
		number("answers about slots of the lost one", len(gone)).beside(number("", len(quiet))),
		number("  errors", count(gone, failed)).beside(number("", count(quiet, failed))).exactly(0),
		number("  degraded", count(gone, degraded)).beside(number("", count(quiet, degraded))),
		ms("  longest", longest(gone)).beside(ms("", longest(quiet))).most(25),
	}
}

// cluster kills a primary that has no replica.
func (r *runner) cluster(ctx context.Context, s *scenario) error {
	about := questions(subjects)
	nodes, d, err := r.clustered(ctx, about, 0)
	if err != nil {
		return err
	}
	defer nodes.stop()
	defer d.stop()
	t, err := r.try(ctx, d, about,
		step{"a primary is killed", func(context.Context) error { nodes[0].Process.Kill(); return nil }, 5 * time.Second},
		step{"it answers again", nodes[0].Again, 6 * time.Second})
	if err != nil {
		return err
	}
	s.add(t.others(t.from(0, 0))...)
	s.add(t.lost(t.from(0, 0))...)
	s.add(t.recovered("it answers", t.steps[1].begun, 5*time.Second)...)
	s.add(t.kept(t.from(0, 0))...)
	s.conclude(t, d)
	return nil
}

// clusterReplica kills a primary whose replica takes over.
func (r *runner) clusterReplica(ctx context.Context, s *scenario) error {
	about := questions(subjects)
	nodes, d, err := r.clustered(ctx, about, 1)
	if err != nil {
		return err
	}
	defer nodes.stop()
	defer d.stop()
	t, err := r.try(ctx, d, about,
		step{"a primary is killed", func(context.Context) error { nodes[0].Process.Kill(); return nil }, 0},
		awaitPromotion(nodes[primaries], 5*time.Second))
	if err != nil {
		return err
	}
	s.add(t.others(t.from(0, 1))...)
	s.add(t.lost(t.from(0, 1))...)
	s.add(after(fmt.Sprintf("promoted after the kill (it is down after %s)", downAfter), t.steps[1].begun-t.steps[0].from, true))
	s.add(t.recovered("the promotion", t.steps[1].begun, 2*time.Second)...)
	s.add(t.kept(t.from(0, 1))...)
	s.conclude(t, d)
	return nil
}
