package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock-dev/penstock/internal/cli/dev"
)

// variablePrefix is that of environment variables, for what must be in no argument.
const variablePrefix = "PENSTOCK_"

func newDev() *cobra.Command {
	var flags manifestFlags
	var options dev.Options
	cmd := &cobra.Command{
		Use:   "dev -f FILE|DIR [-f ...] [-R] [--redis embedded|URL]",
		Short: "Serve the policies of files in one process, and follow their changes",
		Long: `Reads manifests, checks them as validate does, compiles them and publishes them into Redis as the operator does, and
opens the doors of penstockd on them: all in this process, with a Redis of its own unless --redis names one. No
RedisStore is needed; one Redis serves every policy. Objects without a namespace go to namespace default.

A change of a file is in force at once. A mistake in one is reported, and the last good policies stay. A Redis that was
away, or lost the policies, gets them back: a publication that failed is tried again every 2s, and all is looked after
every 30s.

A Redis given by --redis must be nobody else's: one that an operator publishes into is refused. --redis-topology and the
flags beside it reach sentinels, clusters and servers with TLS. Passwords belong into files, or into
PENSTOCK_REDIS_PASSWORD and PENSTOCK_REDIS_SENTINEL_PASSWORD.`,
		Example: `  penstock dev -f config/samples
  penstock dev -R -f deploy/ --http 127.0.0.1:0 --grpc 127.0.0.1:0
  penstock dev -f policies.yaml --redis redis://127.0.0.1:6379
  penstock dev -f policies.yaml --redis rediss://c1:6379,c2:6379 --redis-topology Cluster --redis-tls-ca ca.crt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			unheeded := changedFlags(cmd, func(string) bool { return true })
			if url := options.Redis.URL; unheeded != "" && (url == "" || url == dev.Embedded) {
				return fmt.Errorf("--%s is for a Redis that --redis names, and here is the one within this process; give --redis redis://host:port, or leave --%[1]s away", unheeded)
			}
			options.Redis.FromEnvironment(variablePrefix, os.LookupEnv)
			options.Files, options.Recursive = flags.files, flags.recursive
			options.Out = cmd.OutOrStdout()
			options.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			err := dev.Run(cmd.Context(), options)
			var usage *dev.UsageError
			switch {
			case errors.Is(err, dev.ErrRefused):
				return errRefused
			case errors.As(err, &usage):
				return err
			default:
				return failed(err)
			}
		},
	}
	flags.add(cmd)
	options.Redis.URL = dev.Embedded
	options.Redis.AddFlags(cmd.Flags(), variablePrefix)
	cmd.Flags().Lookup("redis").Usage = "`embedded|URL`: a Redis within this process, or redis://[user[:password]@]host[:port][,host[:port]...][/db], or rediss:// for TLS"
	cmd.Flags().StringVar(&options.HTTP, "http", "127.0.0.1:8080", "`ADDR` of the HTTP doors; port 0 takes a free one")
	cmd.Flags().StringVar(&options.GRPC, "grpc", "127.0.0.1:8081", "`ADDR` of the gRPC doors; port 0 takes a free one")
	return cmd
}
