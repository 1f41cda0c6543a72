package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/process"
)

// daemon is a penstockd under test.
type daemon struct {
	process *process.Process
	asker   *asker
	metrics string
}

// startPenstockd starts one with its default settings, and waits until Redis decides about all questions.
func (r *runner) startPenstockd(ctx context.Context, about []question, args ...string) (*daemon, error) {
	var addresses []string
	for range 3 {
		address, err := process.FreeAddress()
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	args = append(args, "--grpc", addresses[0], "--http", addresses[1], "--metrics", addresses[2], "--lame-duck", "0s")
	p, err := process.Start("penstockd", nil, r.plan.penstockd, args...)
	if err != nil {
		return nil, err
	}
	d := &daemon{process: p, metrics: "http://" + addresses[2] + "/metrics"}
	if d.asker, err = connect(addresses[0]); err != nil {
		p.Stop()
		return nil, err
	}
	if err := p.Eventually(ctx, func(ctx context.Context) error { return d.ready(ctx, about) }); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// ready asks about some of the questions, on every connection.
func (d *daemon) ready(ctx context.Context, about []question) error {
	for i, q := range about[:min(len(about), 40)] {
		got, err := ask(ctx, d.asker.clients[i%connections], q.request)
		if err != nil {
			return err
		}
		if got != enforced {
			return errors.New("it does not enforce yet")
		}
	}
	return nil
}

func (d *daemon) stop() {
	d.asker.close()
	d.process.Stop()
}

// sample is what penstockd tells of itself.
type sample struct {
	at time.Duration
	// goroutines and files (connections among them) are open now; opened is how often a breaker has opened.
	goroutines, files, opened int
	// decided is how many decisions there were, and soon how many of them took at most 20 ms by penstockd's own clock.
	decided, soon int
}

// scrape reads /metrics.
func (d *daemon) scrape(ctx context.Context) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.metrics, nil)
	if err != nil {
		return sample{}, fmt.Errorf("reading metrics: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return sample{}, fmt.Errorf("reading metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	return parseMetrics(response.Body)
}

// parseMetrics reads a sample from the text format of Prometheus; several series of a name are added.
func parseMetrics(r io.Reader) (sample, error) {
	var s sample
	found := 0
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		end := strings.LastIndexByte(line, ' ') // a label may have spaces
		if end < 0 {
			continue
		}
		name, labels, _ := strings.Cut(line[:end], "{")
		var into *int
		switch name {
		case "go_goroutines":
			into = &s.goroutines
		case "process_open_fds":
			into = &s.files
		case "penstock_redis_breaker_opened_total":
			into = &s.opened
		case "penstock_decision_duration_seconds_count":
			into = &s.decided
		case "penstock_decision_duration_seconds_bucket":
			if !strings.Contains(labels, `le="0.02"`) {
				continue
			}
			into = &s.soon
		default:
			continue
		}
		v, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			return s, fmt.Errorf("reading metrics: %s: %w", name, err)
		}
		*into += int(v)
		found++
	}
	if err := lines.Err(); err != nil {
		return s, fmt.Errorf("reading metrics: %w", err)
	}
	if found < 2 {
		return s, errors.New("reading metrics: go_goroutines and process_open_fds are not there")
	}
	return s, nil
}

// samplePause is between two samples.
const samplePause = 500 * time.Millisecond

// sampler takes samples while a load is under way.
type sampler struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	samples []sample
	err     error
}

func (d *daemon) startSampler(ctx context.Context, l *loading) *sampler {
	ctx, stop := context.WithCancel(ctx)
	s := &sampler{stop: stop}
	s.done.Go(func() {
		for {
			at := l.now()
			one, err := d.scrape(context.WithoutCancel(ctx))
			if err != nil {
				s.err = err
				return
			}
			one.at = at
			s.samples = append(s.samples, one)
			if wait(ctx, samplePause) != nil {
				return
			}
		}
	})
	return s
}

func (s *sampler) finish() ([]sample, error) {
	s.stop()
	s.done.Wait()
	return s.samples, s.err
}

// mostOf gives the greatest value of the samples of a span; 0 when there is none.
func mostOf(samples []sample, within span, of func(sample) int) int {
	most := 0
	for _, s := range samples {
		if within.from <= s.at && s.at < within.to {
			most = max(most, of(s))
		}
	}
	return most
}

func goroutines(s sample) int { return s.goroutines }
func files(s sample) int      { return s.files }
func opened(s sample) int     { return s.opened }
