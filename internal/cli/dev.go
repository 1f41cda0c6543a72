package cli

import (
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/penstock-dev/penstock/internal/cli/dev"
)

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

A Redis given by --redis must be nobody else's: one that an operator publishes into is refused.`,
		Example: `  penstock dev -f config/samples
  penstock dev -R -f deploy/ --http 127.0.0.1:0 --grpc 127.0.0.1:0
  penstock dev -f policies.yaml --redis redis://127.0.0.1:6379`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
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
	cmd.Flags().StringVar(&options.Redis, "redis", dev.Embedded, "`embedded|URL`: a Redis within this process, or redis://[user[:password]@]host:port[/db]")
	cmd.Flags().StringVar(&options.HTTP, "http", "127.0.0.1:8080", "`ADDR` of the HTTP doors; port 0 takes a free one")
	cmd.Flags().StringVar(&options.GRPC, "grpc", "127.0.0.1:8081", "`ADDR` of the gRPC doors; port 0 takes a free one")
	return cmd
}
