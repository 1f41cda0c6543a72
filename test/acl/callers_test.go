package acl_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// plain is a client of Redis as applications have it: it calls functions, and loads nothing.
type plain struct {
	client  redis.UniversalClient
	slotted bool
}

func (p plain) Do(ctx context.Context, args []any) (any, error) {
	return p.client.Do(ctx, args...).Result()
}
func (p plain) Slotted() bool { return p.slotted }
func (p plain) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func (p plain) Primary(context.Context, string) (*redis.Client, error) {
	return nil, fmt.Errorf("%w: applications load nothing", redisops.ErrNotExecuted)
}

// apply does what an application does that calls the functions itself.
func apply(s *site) (lost []string, failed error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	s.empty()
	s.publish(policy.NewSet(policies()))
	client := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: s.config.Addresses, MasterName: s.config.MasterName, IsClusterMode: s.config.Topology == policy.TopologyCluster,
		Username: user, Password: password,
		// What a library says of itself needs rights that the functions do not.
		DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer func() { _ = client.Close() }()
	limiter := limit.New(plain{client, s.config.Topology == policy.TopologyCluster}, client, library.ModeFunctions)
	if err := decide(ctx, s, limiter, "bob"); err != nil {
		return nil, err
	}
	if err := decideOnTheMove(ctx, s, limiter); err != nil {
		return nil, err
	}
	if err := client.Do(ctx, "FCALL_RO", "penstock_policy", 0, "shop/window").Err(); err != nil {
		return nil, fmt.Errorf("penstock_policy: %w", err)
	}
	return nil, nil
}

// examine does what the doctor does.
func examine(s *site) (lost []string, failed error) {
	s.empty()
	s.publish(policy.NewSet(policies()))
	report := doctor.Examine(s.t.Context(), doctor.Options{Config: s.as(), Roles: []doctor.Role{doctor.RoleDoctor}})
	for _, finding := range report.Findings {
		switch {
		case finding.Severity == doctor.Error:
			failed = errors.Join(failed, errors.New(finding.String()))
		case finding.Check == doctor.CheckACL && finding.Severity != doctor.OK, strings.Contains(finding.What, "not permitted"):
			lost = append(lost, finding.String())
		}
	}
	return lost, failed
}

// records keeps what is logged.
type records struct {
	mu    sync.Mutex
	lines []string
}

func (r *records) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func (r *records) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(line))
	return len(line), nil
}

// refusal gives the first line that speaks of a missing right.
func (r *records) refusal() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.lines {
		if strings.Contains(line, "NOPERM") {
			return line
		}
	}
	return ""
}
