package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
)

// doctorVariables begin the variables that hold what must be in no argument.
const doctorVariables = "PENSTOCK_"

// doctorFlags are what `penstock doctor` is told.
type doctorFlags struct {
	settings connect.Settings
	file     string
	cluster  clusterFlags
	store    string

	roles   []string
	user    string
	output  string
	strict  bool
	timeout time.Duration
}

func newDoctor() *cobra.Command {
	var flags doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor (--redis URL | -f FILE | --store [NAMESPACE/]NAME)",
		Short: "Say what is wrong with a store's Redis, why it matters, and what to do",
		Long: `Connects to the Redis of a store as it is configured and looks at what goes wrong there: addresses, TLS, passwords, the
topology, latency, versions with known holes, eviction, persistence, replication, clocks, rights of the ACL user, and what
is published. It writes nothing into Redis. Where the servers are is told by one of

  --redis URL        with the flags of penstockd: any host that reaches the servers may ask
  -f FILE            a manifest of a RedisStore; its password and certificates by --redis-password-file and the like
  --store NAME       a RedisStore of the cluster of the kubeconfig, with the Secrets that it names

There is one line for each finding: ok, note, warning or error, of which server, which check, what is found, why it
matters and the remedy. The exit code is 0 when nothing is wrong, 1 when there is an error (with --strict a warning too),
and 2 when the command line is wrong.

Rights are those that --role needs: operator and penstockd, unless told otherwise, since both use the user of the
RedisStore. --user looks at another user than the one who connects, by ACL DRYRUN.`,
		Example: `  penstock doctor --redis redis://127.0.0.1:6379
  PENSTOCK_REDIS_PASSWORD=secret penstock doctor --redis rediss://penstock@redis-1:6379,redis-2:6379 --redis-topology Cluster --role penstockd
  penstock doctor --store shop/default --strict -o json
  penstock doctor -f redisstore.yaml --redis-password-file password`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	f := cmd.Flags()
	flags.settings.AddFlags(f, doctorVariables)
	flags.settings.AddTimeouts(f)
	f.StringVarP(&flags.file, "filename", "f", "", "`FILE` with the manifest of one RedisStore, or - for standard input")
	f.StringVar(&flags.store, "store", "", "`[NAMESPACE/]NAME` of a RedisStore in the cluster")
	flags.cluster.add(f)
	f.StringSliceVar(&flags.roles, "role", []string{string(doctor.RoleOperator), string(doctor.RolePenstockd)}, "whose rights to look for: "+roleNames())
	f.StringVar(&flags.user, "user", "", "the ACL user whose rights to look at; none is the one who connects")
	f.StringVarP(&flags.output, "output", "o", "text", "text or json")
	f.BoolVar(&flags.strict, "strict", false, "warnings are errors for the exit code")
	f.DurationVar(&flags.timeout, "timeout", doctor.DefaultTimeout, "how long it may take altogether")
	return cmd
}

func roleNames() string {
	var names []string
	for _, role := range doctor.Roles() {
		names = append(names, string(role))
	}
	return strings.Join(names, ", ")
}

func (d *doctorFlags) run(cmd *cobra.Command) error {
	options, err := d.options()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), d.timeout)
	defer cancel()
	found, err := d.find(ctx, cmd)
	if err != nil {
		return err
	}
	report := doctor.Report{Findings: found.findings}
	if found.reachable {
		options.Config, options.Owner = found.config, found.owner
		examined := doctor.Examine(ctx, options)
		report.Findings = append(report.Findings, examined.Findings...)
	}
	if err := d.write(cmd.OutOrStdout(), report); err != nil {
		return failed(err)
	}
	if report.Failed(d.strict) {
		return errRefused
	}
	return nil
}

func (d *doctorFlags) options() (doctor.Options, error) {
	if d.output != "text" && d.output != "json" {
		return doctor.Options{}, fmt.Errorf("--output is %q; give text or json", d.output)
	}
	if d.timeout <= 0 {
		return doctor.Options{}, fmt.Errorf("--timeout is %v; give more than 0", d.timeout)
	}
	options := doctor.Options{User: d.user, Timeout: d.timeout}
	for _, name := range d.roles {
		if !slices.Contains(doctor.Roles(), doctor.Role(name)) {
			return options, fmt.Errorf("--role is %q; give one or several of %s", name, roleNames())
		}
		options.Roles = append(options.Roles, doctor.Role(name))
	}
	if len(options.Roles) == 0 {
		return options, fmt.Errorf("--role is empty; give one or several of %s", roleNames())
	}
	return options, nil
}

func (d *doctorFlags) write(w io.Writer, report doctor.Report) error {
	if d.output == "json" {
		return report.WriteJSON(w)
	}
	return report.WriteText(w)
}

// find finds out where the servers are.
func (d *doctorFlags) find(ctx context.Context, cmd *cobra.Command) (located, error) {
	given := 0
	for _, way := range []string{d.settings.URL, d.file, d.store} {
		if way != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return located{}, errors.New("where is the Redis? Give one of --redis, -f and --store")
	case d.store == "" && (d.cluster.changed()):
		return located{}, errors.New("--namespace, --kubeconfig and --context go with --store")
	}
	d.settings.FromEnvironment(doctorVariables, os.LookupEnv)
	switch {
	case d.store != "":
		if changed := changedFlags(cmd, func(name string) bool { return name != "redis-protocol" }); changed != "" {
			return located{}, fmt.Errorf("--%s: the RedisStore of --store says so itself; leave it away", changed)
		}
		return d.cluster.locate(ctx, d.store)
	case d.file != "":
		if changed := changedFlags(cmd, saidByManifest); changed != "" {
			return located{}, fmt.Errorf("--%s: the RedisStore of -f says so itself; leave it away", changed)
		}
		return locateInFile(ctx, cmd.InOrStdin(), d.file, &d.settings)
	}
	config, err := d.settings.Load()
	if err != nil {
		return located{}, err
	}
	return located{config: config, reachable: true}, nil
}

// timing are the flags of connect.Settings.AddTimeouts.
var timing = []string{"command-timeout", "dial-timeout", "min-backoff", "max-backoff", "max-connections"}

// saidByManifest tells of a flag that a RedisStore has a field for.
func saidByManifest(name string) bool {
	return slices.Contains([]string{"redis-topology", "redis-master-name", "redis-tls-server-name", "redis-tls-insecure-skip-verify"}, name)
}

// changedFlags gives the name of a flag about the connection that was given, among those that are meant.
func changedFlags(cmd *cobra.Command, meant func(string) bool) string {
	var found string
	cmd.Flags().Visit(func(f *flag) {
		about := strings.HasPrefix(f.Name, "redis-") && meant(f.Name) || slices.Contains(timing, f.Name)
		if about && found == "" {
			found = f.Name
		}
	})
	return found
}
