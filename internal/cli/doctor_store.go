package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/redisstore"
	"github.com/penstock-dev/penstock/internal/cli/check"
	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/cli/manifest"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/translate"
)

type flag = pflag.Flag

// located is where the servers of a store are, or what kept that from being known.
type located struct {
	config redisops.Config
	// reachable tells that the config is of use.
	reachable bool
	// owner is how the owner of the store ends.
	owner    string
	findings []doctor.Finding
}

func (l *located) refuse(what, remedy string) {
	l.findings = append(l.findings, doctor.Finding{Severity: doctor.Error, Check: doctor.CheckConfiguration, What: what, Why: "the operator connects to nothing", Remedy: remedy})
}

func (l *located) refuseFields(store *v1.RedisStore, errs field.ErrorList) {
	for _, err := range errs {
		l.refuse(fmt.Sprintf("RedisStore %s/%s: %v", store.Namespace, store.Name, err), "")
	}
}

// clusterFlags say which cluster, as those of kubectl do.
type clusterFlags struct {
	namespace, kubeconfig, context string
}

func (c *clusterFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&c.namespace, "namespace", "n", "", "the namespace of --store; none is that of the kubeconfig's context")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "`FILE` that says how the cluster of --store is reached; none is as kubectl does")
	f.StringVar(&c.context, "context", "", "the context of the kubeconfig; none is the current one")
}

func (c *clusterFlags) changed() bool {
	return c.namespace != "" || c.kubeconfig != "" || c.context != ""
}

// locate reads a RedisStore and its Secrets from the cluster, as the operator does.
func (c *clusterFlags) locate(ctx context.Context, store string) (located, error) {
	loading := clientcmd.NewDefaultClientConfigLoadingRules()
	loading.ExplicitPath = c.kubeconfig
	kubeconfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(loading, &clientcmd.ConfigOverrides{CurrentContext: c.context})
	name, err := c.name(store, kubeconfig)
	if err != nil {
		return located{}, err
	}
	rest, err := kubeconfig.ClientConfig()
	if err != nil {
		return located{}, fmt.Errorf("--store: the cluster is not known: %w; see --kubeconfig and --context", err)
	}
	if deadline, is := ctx.Deadline(); is {
		// Finding out which kinds there are does not go by the context.
		rest.Timeout = time.Until(deadline)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1.AddToScheme} {
		if err := add(scheme); err != nil {
			return located{}, failed(err)
		}
	}
	reader, err := client.New(rest, client.Options{Scheme: scheme})
	if err != nil {
		return located{}, failed(fmt.Errorf("the cluster cannot be asked: %w", err))
	}
	return locateIn(ctx, reader, name)
}

func (c *clusterFlags) name(store string, kubeconfig clientcmd.ClientConfig) (types.NamespacedName, error) {
	namespace, name, both := strings.Cut(store, "/")
	switch {
	case both && c.namespace != "" && c.namespace != namespace:
		return types.NamespacedName{}, fmt.Errorf("--store names namespace %s and --namespace %s; give one", namespace, c.namespace)
	case !both:
		name, namespace = store, c.namespace
	}
	if name == "" || strings.Contains(name, "/") {
		return types.NamespacedName{}, fmt.Errorf("--store is %q; give [NAMESPACE/]NAME", store)
	}
	if namespace == "" {
		var err error
		if namespace, _, err = kubeconfig.Namespace(); err != nil {
			return types.NamespacedName{}, fmt.Errorf("--store: the namespace is not known: %w; give --namespace", err)
		}
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

// locateIn reads the store with that client.
func locateIn(ctx context.Context, reader client.Reader, name types.NamespacedName) (located, error) {
	store := &v1.RedisStore{}
	if err := reader.Get(ctx, name, store); err != nil {
		if apierrors.IsNotFound(err) {
			return located{}, failed(fmt.Errorf("there is no RedisStore %s; `kubectl get redisstores -A` lists them", name))
		}
		return located{}, failed(fmt.Errorf("reading RedisStore %s: %w", name, err))
	}
	found := located{owner: "/" + name.String()}
	compiled, errs := translate.RedisStore(store)
	if len(errs) > 0 {
		found.refuseFields(store, errs)
		return found, nil
	}
	secrets, err := redisstore.ReadSecrets(ctx, reader, store, "")
	if stalling, is := errors.AsType[*conditions.Stalling](err); is {
		if stalling.Reason == v1.ReasonSecretForbidden {
			return located{}, failed(fmt.Errorf("you may not read the Secrets of RedisStore %s: `kubectl auth can-i get secrets -n %s`", name, name.Namespace))
		}
		found.refuse(stalling.Message, "")
		return found, nil
	}
	if err != nil {
		return located{}, failed(err)
	}
	for _, trimmed := range secrets.Trimmed {
		found.findings = append(found.findings, doctor.Finding{
			Severity: doctor.Note, Check: doctor.CheckConfiguration, What: "the " + trimmed + " ends in a newline, which is left out",
			Why: "an editor or `echo` put it there", Remedy: "write it without",
		})
	}
	found.config, found.reachable = redisops.ConfigFor(compiled, secrets.Secrets), true
	return found, nil
}

// locateInFile takes where the servers are from the manifest of a RedisStore, and the secrets from the settings.
func locateInFile(ctx context.Context, stdin io.Reader, file string, settings *connect.Settings) (located, error) {
	objects, problems, err := manifest.Read([]string{file}, false, stdin)
	if err != nil {
		return located{}, err
	}
	checker, err := check.NewChecker()
	if err != nil {
		return located{}, failed(err)
	}
	result := checker.Objects(ctx, objects)
	problems = append(problems, result.Problems...)
	if len(problems) > 0 {
		var found located
		for _, problem := range problems {
			found.refuse(problem.String(), "")
		}
		return found, nil
	}
	if n := len(result.RedisStores); n != 1 {
		return located{}, fmt.Errorf("-f: there are %d RedisStores in %s; give a file with one", n, file)
	}
	store := &result.RedisStores[0]
	compiled, errs := translate.RedisStore(store)
	if len(errs) > 0 {
		var found located
		found.refuseFields(store, errs)
		return found, nil
	}
	describe(settings, compiled)
	config, err := settings.Load()
	if err != nil {
		return located{}, err
	}
	return located{config: config, reachable: true, owner: fmt.Sprintf("/%s/%s", store.Namespace, store.Name)}, nil
}

// describe puts a compiled store into the settings.
func describe(settings *connect.Settings, store policy.RedisStore) {
	scheme := "redis://"
	if store.TLS != nil {
		scheme = "rediss://"
		settings.TLSServerName, settings.TLSInsecureSkipVerify = store.TLS.ServerName, store.TLS.InsecureSkipVerify
	}
	settings.URL = scheme + strings.Join(store.Addresses, ",")
	settings.Topology, settings.MasterName = string(store.Topology), store.MasterName
	settings.CommandTimeout, settings.DialTimeout = store.CommandTimeout, store.DialTimeout
	settings.MinBackoff, settings.MaxBackoff = store.MinBackoff, store.MaxBackoff
}
