package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// DirectOptions of a Direct. Zero values are the defaults.
type DirectOptions struct {
	// Redis is redis://[user[:password]@]host[:port][,host[:port]…][/db], or rediss:// for TLS. Required: the Redis of the
	// RedisStore, where the operator has published the policies.
	Redis string
	// Topology is Standalone, Sentinel (the hosts of Redis are sentinels) or Cluster, as of the RedisStore; empty is
	// Standalone.
	Topology string
	// MasterName is what the sentinels call the primary.
	MasterName string
	// Username and Password are those of Redis, unless the URL has them.
	Username, Password string
	// UsernameFile and PasswordFile hold them in their place. The files are looked at every 10 s, and at once when Redis
	// refuses what they held, so that credentials may be replaced while the program runs; those of TLS are, too.
	UsernameFile, PasswordFile string
	// SentinelUsername and SentinelPassword are those of the sentinels; SentinelUsernameFile and SentinelPasswordFile hold
	// them in their place.
	SentinelUsername, SentinelPassword, SentinelUsernameFile, SentinelPasswordFile string
	// TLS is for rediss://.
	TLS DirectTLS
	// Protocol is the version of Redis' protocol, RESP, 2 or 3; 0 is 2.
	Protocol int
	// CommandTimeout is how long a decision waits for Redis; 0 is 10 ms.
	CommandTimeout time.Duration
	// DialTimeout bounds the opening of a connection; 0 is 1 s.
	DialTimeout time.Duration
	// MaxConnections is the most connections that are open at a time to each server, but for one that follows the policies; 0
	// is 64.
	MaxConnections int
	// Snapshot is a file that keeps the last policies, readable for its owner only, so that a program that starts while Redis
	// is away knows them; empty is none.
	Snapshot string
	// StartWithoutPolicies has NewDirect not wait: until the policies are read, OnFailure decides.
	StartWithoutPolicies bool
	// OnFailure is how to answer while no policies were read; empty is Allow. From then on each policy's onStoreFailure is
	// known.
	OnFailure FailureMode
	// NoDenyCache has Redis asked even for what it denied a moment ago.
	NoDenyCache bool
	// Registerer gets the metrics that penstockd has too, with the door "client", until the Direct is closed; nil keeps them
	// to ourselves. It takes those of one Direct at a time.
	Registerer prometheus.Registerer
	// Logger gets one line per transition; nil is slog.Default().
	Logger *slog.Logger
}

// DirectTLS says whom to trust as Redis, and what to show to it. The files are in PEM.
type DirectTLS struct {
	// CAFile has the CAs of the servers; empty is those of the system.
	CAFile string
	// CertFile and KeyFile are the certificate of the program, where Redis asks for one.
	CertFile, KeyFile string
	// ServerName is the name in the servers' certificates; empty is the host of each.
	ServerName string
	// InsecureSkipVerify takes any certificate.
	InsecureSkipVerify bool
}

// Direct is the Limiter that decides in this process, by the policies that are published in a Redis. It follows them until
// it is closed.
type Direct struct {
	store    *store.Store
	engine   *engine.Engine
	unread   FailureMode
	stop     context.CancelFunc
	followed sync.WaitGroup
	// metrics are registered as one, so that closing can take them out again.
	metrics    *prometheus.Registry
	registerer prometheus.Registerer
}

var _ Limiter = (*Direct)(nil)

// NewDirect makes a Limiter that decides in this process, and waits until it has read the policies. It fails when the options
// are wrong, and when the context ends before (see StartWithoutPolicies for another way); the limiter itself outlives the
// context.
func NewDirect(ctx context.Context, opts DirectOptions) (*Direct, error) {
	load, err := opts.redis()
	if err != nil {
		return nil, err
	}
	unread, err := failureMode(opts.OnFailure)
	if err != nil {
		return nil, err
	}
	log := logger(opts.Logger)
	d := &Direct{unread: unread, registerer: opts.Registerer, metrics: prometheus.NewRegistry()}
	d.store, err = store.Open(store.Options{
		Load: load, Replica: newReplica(), Snapshot: opts.Snapshot, Answers: func() { d.engine.Answers() }, Registerer: d.metrics, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	d.engine = engine.New(engine.Options{
		Limiter: d.store, Reread: d.store.Reread, ExpressionFailed: d.store.ExpressionFailed, Replicas: d.store.Replicas,
		Logger: log, Registerer: d.metrics, NoDenyCache: opts.NoDenyCache,
	})
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	d.followed.Go(func() { d.store.Follow(following, d.engine.Use) })
	if err := d.register(); err != nil {
		_ = d.close()
		return nil, err
	}
	if opts.StartWithoutPolicies {
		return d, nil
	}
	if err := d.Ready(ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// directSettings are the options by the name that package connect has for each.
var directSettings = map[string]string{
	"redis": "Redis", "redis-topology": "Topology", "redis-master-name": "MasterName",
	"redis-username-file": "UsernameFile", "redis-password-file": "PasswordFile", "redis-sentinel-username": "SentinelUsername",
	"redis-sentinel-username-file": "SentinelUsernameFile",
	"redis-sentinel-password":      "SentinelPassword", "redis-sentinel-password-file": "SentinelPasswordFile",
	"redis-tls-ca": "TLS.CAFile", "redis-tls-cert": "TLS.CertFile", "redis-tls-key": "TLS.KeyFile",
	"redis-tls-server-name": "TLS.ServerName", "redis-tls-insecure-skip-verify": "TLS.InsecureSkipVerify", "redis-protocol": "Protocol",
}

// redis gives what loads the configuration, and checks that it can now.
func (o *DirectOptions) redis() (func() (redisops.Config, error), error) {
	if o.CommandTimeout < 0 || o.DialTimeout < 0 || o.MaxConnections < 0 {
		return nil, errors.New("options: want CommandTimeout, DialTimeout and MaxConnections of at least 0")
	}
	for _, twice := range []struct{ what, value, file string }{
		{"Username", o.Username, o.UsernameFile}, {"Password", o.Password, o.PasswordFile},
		{"SentinelUsername", o.SentinelUsername, o.SentinelUsernameFile}, {"SentinelPassword", o.SentinelPassword, o.SentinelPasswordFile},
	} {
		if twice.value != "" && twice.file != "" {
			return nil, fmt.Errorf("options: want either %[1]s or %[1]sFile", twice.what)
		}
	}
	settings := &connect.Settings{
		URL: o.Redis, Topology: o.Topology, MasterName: o.MasterName,
		Username: o.Username, UsernameFile: o.UsernameFile, Password: o.Password, PasswordFile: o.PasswordFile,
		SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword,
		SentinelUsernameFile: o.SentinelUsernameFile, SentinelPasswordFile: o.SentinelPasswordFile,
		TLSCA: o.TLS.CAFile, TLSCert: o.TLS.CertFile, TLSKey: o.TLS.KeyFile, TLSServerName: o.TLS.ServerName,
		TLSInsecureSkipVerify: o.TLS.InsecureSkipVerify, Protocol: o.Protocol,
		CommandTimeout: o.CommandTimeout, DialTimeout: o.DialTimeout, MaxConnections: o.MaxConnections,
		Naming: func(flag string) string { return "options: " + directSettings[flag] },
	}
	cfg, err := settings.Load()
	if err != nil {
		return nil, err
	}
	inURL, err := redisops.ParseURL(o.Redis)
	switch {
	case err != nil:
		return nil, fmt.Errorf("options: Redis: %w", err)
	case inURL.Username != "" && o.Username+o.UsernameFile != "":
		return nil, errors.New("options: want the user either in Redis or in Username")
	case inURL.Password != "" && o.Password+o.PasswordFile != "":
		return nil, errors.New("options: want the password either in Redis or in Password")
	case cfg.Topology == policy.TopologyIndependent:
		return nil, errors.New("options: Topology is Independent; such servers hold no rate limits: want Standalone, Sentinel or Cluster")
	}
	return settings.Load, nil
}

// newReplica makes a name for this process among those that decide with the same Redis.
func newReplica() string {
	host, err := os.Hostname()
	if err != nil {
		host = "client"
	}
	return host + "-" + strings.ToLower(rand.Text()[:8])
}

// Ready waits until the policies have been read. When the context ends before, the error tells what stands in the way.
func (d *Direct) Ready(ctx context.Context) error {
	select {
	case <-d.engine.Ready():
		return nil
	case <-ctx.Done():
		if why := d.store.Why(); why != "" {
			return fmt.Errorf("%w: %s: %w", engine.ErrNoSet, why, ctx.Err())
		}
		return fmt.Errorf("%w: %w", engine.ErrNoSet, ctx.Err())
	}
}

// Close ends what is under way and closes all connections. Whoever asks from then on is answered as when Redis is away.
func (d *Direct) Close() error {
	if d.registerer != nil {
		d.registerer.Unregister(d.metrics)
	}
	return d.close()
}

func (d *Direct) close() error {
	d.stop()
	d.store.Close()
	d.followed.Wait()
	return nil
}

// register shows the metrics in the registry of the program, all or none.
func (d *Direct) register() error {
	if d.registerer == nil {
		return nil
	}
	if err := d.registerer.Register(d.metrics); err != nil {
		return fmt.Errorf("options: Registerer: %w; want one that has not the metrics of another Direct", err)
	}
	return nil
}

// Check decides; see Limiter.
func (d *Direct) Check(ctx context.Context, r Request) (Verdict, error) {
	c, err := r.call()
	if err != nil {
		return Verdict{}, err
	}
	v, err := d.engine.DecidePolicy(ctx, engine.DoorClient, c)
	switch {
	case errors.Is(err, engine.ErrNoSet):
		return undecided(r.Policy, r.ID, d.unread, CauseStore, r.HTTP), nil
	case err != nil:
		return Verdict{}, failure(err)
	}
	return ofEngine(&v, r.HTTP), nil
}

// Peek tells what Check would; see Limiter.
func (d *Direct) Peek(ctx context.Context, r Request) (Verdict, error) {
	r.ID = "" // names nothing that is not decided
	c, err := r.call()
	if err != nil {
		return Verdict{}, err
	}
	v, err := d.engine.Peek(ctx, engine.DoorClient, c)
	switch {
	case errors.Is(err, engine.ErrNoSet):
		return undecided(r.Policy, "", d.unread, CauseStore, false), nil
	case err != nil:
		return Verdict{}, failure(err)
	}
	return ofEngine(&v, false), nil
}

// Refund gives back; see Limiter.
func (d *Direct) Refund(ctx context.Context, r Request) (bool, error) {
	c, err := r.call()
	if err != nil {
		return false, err
	}
	v, err := d.engine.Refund(ctx, engine.DoorClient, c)
	if err != nil {
		return false, failure(err)
	}
	return v.Reason != limit.ReasonAbsent, nil
}

// Credit tops up; see Limiter.
func (d *Direct) Credit(ctx context.Context, r Request) (int64, error) {
	c, err := r.call()
	if err != nil {
		return 0, err
	}
	c.Cost = r.Cost
	v, err := d.engine.Credit(ctx, engine.DoorClient, c)
	if err != nil {
		return 0, failure(err)
	}
	return v.Remaining, nil
}

// Reset forgets; see Limiter.
func (d *Direct) Reset(ctx context.Context, r Request) error {
	_, err := d.engine.Reset(ctx, engine.DoorClient, engine.Call{Policy: r.Policy, Lookup: lookup(r.Subject, r.Lookup)})
	return failure(err)
}

// AcquireSlot takes a slot; see Limiter.
func (d *Direct) AcquireSlot(ctx context.Context, r SlotRequest) (Slot, error) {
	if r.ID == "" {
		r.ID = rand.Text()
	}
	v, err := d.engine.AcquireSlot(ctx, engine.DoorClient, r.call())
	switch {
	case errors.Is(err, engine.ErrNoSet):
		return Slot{Verdict: undecided(r.Policy, "", d.unread, CauseStore, r.HTTP), SlotID: r.ID}, nil
	case err != nil:
		return Slot{}, failure(err)
	}
	slot := Slot{Verdict: ofEngine(&v, r.HTTP), SlotID: r.ID, TTL: slotTTL(&v, r.TTL)}
	slot.ID = ""
	return slot, nil
}

// ReleaseSlot gives a slot back; see Limiter.
func (d *Direct) ReleaseSlot(ctx context.Context, r SlotRequest) (bool, error) {
	r.TTL = 0
	v, err := d.engine.ReleaseSlot(ctx, engine.DoorClient, r.call())
	if err != nil {
		return false, failure(err)
	}
	return v.Reason != limit.ReasonAbsent, nil
}

// slotTTL is how long a slot is held for which that much was asked; 0 when it is not held, or nobody knows.
func slotTTL(v *engine.Verdict, asked time.Duration) time.Duration {
	if !v.Allowed || v.Binding == nil {
		return 0
	}
	most := time.Duration(v.Binding.SlotTTLMs) * time.Millisecond
	if asked == 0 {
		return most
	}
	return min(asked, most)
}

// call is the request as the engine takes it. A negative cost would be the engine's sign for the policy's own.
func (r *Request) call() (engine.Call, error) {
	c := engine.Call{Policy: r.Policy, Lookup: lookup(r.Subject, r.Lookup), Cost: r.Cost, ID: r.ID}
	switch {
	case r.Cost < 0:
		return c, &ArgumentError{Field: "cost", Problem: "want at least 0, which leaves it to the policy"}
	case r.Cost == 0:
		c.Cost = engine.PolicyCost
	}
	return c, nil
}

func (r *SlotRequest) call() engine.SlotCall {
	return engine.SlotCall{Policy: r.Policy, Lookup: lookup(r.Subject, r.Lookup), ID: r.ID, TTL: r.TTL}
}

// lookup looks at the subject first.
func lookup(subject map[string]string, more func(string) (string, bool)) func(string) (string, bool) {
	return func(key string) (string, bool) {
		if value, found := subject[key]; found || more == nil {
			return value, found
		}
		return more(key)
	}
}

// failure is the error of the package for one of the engine.
func failure(err error) error {
	if long, is := errors.AsType[*engine.ValueTooLongError](err); is {
		return tooLong(&ArgumentError{Field: "subject", Problem: "the value of " + long.Error()})
	}
	if missing, is := errors.AsType[*engine.MissingAttributeError](err); is {
		return &ArgumentError{
			Field: "subject", Problem: "lacks " + missing.Key + ", a descriptor of the policy, or has a value that the policy is not for",
		}
	}
	if argument, is := errors.AsType[*engine.ArgumentError](err); is {
		return &ArgumentError{Field: argument.Field, Problem: argument.Problem}
	}
	for _, known := range []struct{ of, as error }{
		{engine.ErrUnknownPolicy, ErrUnknownPolicy},
		{engine.ErrWrongOperation, ErrWrongOperation},
		{engine.ErrConfiguration, ErrRefused},
		{engine.ErrUnknownOutcome, ErrUnknownOutcome},
		{engine.ErrStoreUnavailable, ErrUnavailable},
		{engine.ErrNoSet, ErrUnavailable},
	} {
		if errors.Is(err, known.of) {
			return fmt.Errorf("%w: %w", known.as, err)
		}
	}
	return err
}
