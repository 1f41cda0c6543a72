package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/v9"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/bench/internal/machine"
	"github.com/penstock-dev/penstock/bench/internal/process"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

const (
	systemNamespace = "penstock-system"
	policyNamespace = "shop"
	// creators create policies at the same time.
	creators = 16
	// patience is how long a publication is waited for.
	patience = 2 * time.Minute
)

// api is a kube-apiserver with its etcd. envtest starts both, so they outlive this program when it is killed by SIGKILL.
type api struct {
	environment *envtest.Environment
	client      client.Client
	// kubeconfig is a file, and auditLog another one.
	kubeconfig, auditLog string
}

func (r *runner) startAPI(ctx context.Context) (a *api, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS is not set: use make bench-faults, or export KUBEBUILDER_ASSETS=$(hack/envtest-assets.sh)")
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	policyFile := filepath.Join(r.dir, "audit-policy.yaml")
	if err := os.WriteFile(policyFile, []byte(auditPolicy), 0o600); err != nil {
		return nil, fmt.Errorf("starting kube-apiserver: %w", err)
	}
	a = &api{
		kubeconfig: filepath.Join(r.dir, "kubeconfig"), auditLog: filepath.Join(r.dir, "audit.log"),
		environment: &envtest.Environment{CRDDirectoryPaths: []string{r.plan.crds}, ErrorIfCRDPathMissing: true},
	}
	a.environment.ControlPlane.GetAPIServer().Configure().
		Append("audit-policy-file", policyFile).Append("audit-log-path", a.auditLog)
	defer func() {
		if err != nil {
			_ = a.environment.Stop()
		}
	}()
	config, err := a.environment.Start()
	if err != nil {
		return nil, fmt.Errorf("starting kube-apiserver: %w", err)
	}
	config = rest.CopyConfig(config)
	config.QPS = -1 // as fast as the server answers
	if a.client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("connecting to kube-apiserver: %w", err)
	}
	user, err := a.environment.AddUser(envtest.User{Name: operatorUser, Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("adding the operator's user: %w", err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return nil, fmt.Errorf("adding the operator's user: %w", err)
	}
	if err := os.WriteFile(a.kubeconfig, kubeconfig, 0o600); err != nil {
		return nil, fmt.Errorf("adding the operator's user: %w", err)
	}
	for _, namespace := range []string{systemNamespace, policyNamespace} {
		if err := a.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *api) stop() { _ = a.environment.Stop() }

func (a *api) written() (writes, error) {
	file, err := os.Open(a.auditLog)
	if errors.Is(err, os.ErrNotExist) {
		return writes{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	return readAudit(file)
}

// settle waits until the operator has written nothing but its lease for some seconds, and gives what it has written in all.
func (a *api) settle(ctx context.Context) (writes, error) {
	const pause, still = time.Second, 5
	last, err := a.written()
	same := 0
	for began := time.Now(); err == nil && same < still; {
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
		var now writes
		if now, err = a.written(); err != nil {
			return nil, err
		}
		same++
		if now.total(false) != last.total(false) {
			same = 0
		}
		last = now
		if time.Since(began) > patience {
			return nil, fmt.Errorf("the operator still writes after %s: %s", patience, last)
		}
	}
	return last, err
}

// startOperator starts one as it is deployed, besides its ports.
func (r *runner) startOperator(ctx context.Context, a *api) (*process.Process, error) {
	probes, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	p, err := process.Start("operator", nil, r.plan.operator, "--kubeconfig", a.kubeconfig, "--leader-elect",
		"--operator-namespace", systemNamespace, "--metrics-bind-address", "0", "--health-probe-bind-address", probes)
	if err != nil {
		return nil, err
	}
	err = p.Eventually(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+probes+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// limitNamed gives a RateLimit of so many requests a minute.
func limitNamed(i int, requests int64) *v1.RateLimit {
	return &v1.RateLimit{
		ObjectMeta: metav1.ObjectMeta{Namespace: policyNamespace, Name: fmt.Sprintf("limit-%05d", i)},
		Spec: v1.RateLimitSpec{
			Descriptors: []v1.Descriptor{{Key: descriptor}},
			Limits:      []v1.Limit{{Name: "default", Requests: &requests, Window: "1m"}},
		},
	}
}

// create creates n RateLimits, several at a time, and gives when the last one was answered.
func (a *api) create(ctx context.Context, n int) (time.Time, error) {
	var next atomic.Int64
	var all sync.WaitGroup
	failures := make([]error, creators)
	for i := range creators {
		all.Go(func() {
			for {
				j := int(next.Add(1)) - 1
				if j >= n {
					return
				}
				if failures[i] = a.client.Create(ctx, limitNamed(j, 100)); failures[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return time.Now(), errors.Join(failures...)
}

// published waits until what is in Redis is as wanted, and gives when that was. It looks each time that a publication is told, and
// every second besides.
func published(ctx context.Context, server *redis.Client, told <-chan *redis.Message, wanted func(*policy.Set) bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		at := time.Now()
		document, err := server.Get(ctx, policystore.PoliciesKey).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return at, fmt.Errorf("reading what is published: %w", err)
		}
		if err == nil {
			set, err := policy.Parse(document)
			if err != nil {
				return at, fmt.Errorf("reading what is published: %w", err)
			}
			if wanted(set) {
				return at, nil
			}
		}
		select {
		case <-ctx.Done():
			return at, fmt.Errorf("waiting for a publication: %w", ctx.Err())
		case <-told:
		case <-time.After(time.Second):
		}
	}
}

// operatorWork measures how soon the operator publishes, and what it costs.
func (r *runner) operatorWork(ctx context.Context, s *scenario) error {
	ctrl.SetLogger(logr.Discard()) // else controller-runtime complains that there is none
	server, err := r.startRedis(ctx)
	if err != nil {
		return err
	}
	defer server.Stop()
	a, err := r.startAPI(ctx)
	if err != nil {
		return err
	}
	defer a.stop()
	operator, err := r.startOperator(ctx, a)
	if err != nil {
		return err
	}
	defer operator.Stop()
	defer func() { s.Log = operator.Output() }()
	subscription := server.Client.Subscribe(ctx, policystore.Channel)
	defer func() { _ = subscription.Close() }()
	if _, err := subscription.Receive(ctx); err != nil {
		return fmt.Errorf("subscribing to publications: %w", err)
	}
	told := subscription.Channel()

	store := &v1.RedisStore{
		ObjectMeta: metav1.ObjectMeta{Namespace: policyNamespace, Name: "default"},
		Spec:       v1.RedisStoreSpec{Addresses: []string{server.Address}},
	}
	if err := a.client.Create(ctx, store); err != nil {
		return fmt.Errorf("creating the RedisStore: %w", err)
	}
	r.say("  %d RateLimits are created", r.plan.policies)
	began := time.Now()
	created, err := a.create(ctx, r.plan.policies)
	if err != nil {
		return fmt.Errorf("creating RateLimits: %w", err)
	}
	// Only the set with all of them has the last one, whichever that was.
	at, err := published(ctx, server.Client, told, func(set *policy.Set) bool { return len(set.RateLimits) == r.plan.policies })
	if err != nil {
		return err
	}
	s.add(
		number("RateLimits", r.plan.policies),
		value("all created within", unitS, created.Sub(began).Seconds()),
		value("published after the last one was created", unitS, max(0, at.Sub(created).Seconds())).most(1),
	)
	r.say("  all are published")
	before, err := a.settle(ctx)
	if err != nil {
		return err
	}
	s.add(number("writes at the API server for all that ("+before.String()+")", before.total(false)))

	if err := r.edit(ctx, s, a, operator, server, told); err != nil {
		return err
	}
	return r.rest(ctx, s, a, operator, server)
}

// edit changes one RateLimit.
func (r *runner) edit(
	ctx context.Context, s *scenario, a *api, operator *process.Process, server *process.Redis, told <-chan *redis.Message,
) error {
	const changed = 77
	before, err := a.settle(ctx)
	if err != nil {
		return err
	}
	spent, err := cpuTimes(operator, server.Process)
	if err != nil {
		return err
	}
	edited := &v1.RateLimit{}
	name := limitNamed(r.plan.policies/2, 0)
	if err := a.client.Get(ctx, client.ObjectKeyFromObject(name), edited); err != nil {
		return fmt.Errorf("reading a RateLimit: %w", err)
	}
	requests := int64(changed)
	edited.Spec.Limits[0].Requests = &requests
	if err := a.client.Update(ctx, edited); err != nil {
		return fmt.Errorf("changing a RateLimit: %w", err)
	}
	updated := time.Now()
	at, err := published(ctx, server.Client, told, func(set *policy.Set) bool {
		of := set.RateLimit(policyNamespace + "/" + edited.Name)
		return of != nil && of.Limits[0].Requests == changed
	})
	if err != nil {
		return err
	}
	s.add(value("published after one was changed", unitS, max(0, at.Sub(updated).Seconds())).most(1))
	after, err := a.settle(ctx)
	if err != nil {
		return err
	}
	done := after.since(before)
	spentAfter, err := cpuTimes(operator, server.Process)
	if err != nil {
		return err
	}
	s.add(
		value("  CPU time of the operator for that", unitS, (spentAfter[0]-spent[0]).Seconds()),
		value("  CPU time of Redis, this program's reading included", unitS, (spentAfter[1]-spent[1]).Seconds()),
		number("writes at the API server for that ("+done.String()+")", done.total(false)).exactly(1),
	)
	return nil
}

// cpuTimes gives that of each process.
func cpuTimes(processes ...*process.Process) ([]time.Duration, error) {
	var all []time.Duration
	for _, p := range processes {
		spent, err := machine.CPUTime(p.PID())
		if err != nil {
			return nil, err
		}
		all = append(all, spent)
	}
	return all, nil
}

// rest lets nothing change for a while.
func (r *runner) rest(ctx context.Context, s *scenario, a *api, operator *process.Process, server *process.Redis) error {
	r.say("  nothing changes for %s", r.plan.quiet)
	before, err := a.written()
	if err != nil {
		return err
	}
	redisBefore, err := redisWrites(ctx, server.Client)
	if err != nil {
		return err
	}
	cpuBefore, err := machine.CPUTime(operator.PID())
	if err != nil {
		return err
	}
	if err := wait(ctx, r.plan.quiet); err != nil {
		return err
	}
	if err := operator.Alive(); err != nil {
		return err
	}
	cpu, err := machine.CPUTime(operator.PID())
	if err != nil {
		return err
	}
	redisAfter, err := redisWrites(ctx, server.Client)
	if err != nil {
		return err
	}
	after, err := a.written()
	if err != nil {
		return err
	}
	now, most, err := machine.Memory(operator.PID())
	if err != nil {
		return err
	}
	done := after.since(before)
	name := fmt.Sprintf("in %s without a change: writes at the API server", r.plan.quiet)
	if done.total(false) > 0 {
		name += " (" + done.String() + ")"
	}
	const mib = 1 << 20
	s.add(
		number(name, done.total(false)).exactly(0),
		number("  renewals of the leader's lease", done.total(true)),
		number("  writes to Redis", redisAfter-redisBefore).exactly(0),
		value("  CPU time of the operator", unitS, (cpu-cpuBefore).Seconds()),
		value("memory of the operator (RSS), at most", unitMiB, float64(most)/mib).most(300),
		value("memory of the operator (RSS), at the end", unitMiB, float64(now)/mib),
	)
	return nil
}
