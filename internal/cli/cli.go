// Package cli holds the subcommands of penstock, a file each.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	// ExitOK is for all that worked.
	ExitOK = 0
	// ExitFailed is for what was tried and did not work, or was refused.
	ExitFailed = 1
	// ExitUsage is for a command line that cannot be carried out: a wrong flag, a file that is not there.
	ExitUsage = 2
)

// Streams are the standard streams of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// failure is an error of a command that was understood. All other errors are about its usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// failed marks an error as ExitFailed.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return failure{err}
}

// errRefused ends a command whose output has said everything already.
var errRefused = failure{errors.New("refused")}

// Run runs the command line until it is done or the context ends, and gives the exit code. The version is what
// `penstock version` prints; empty: what the build knows.
func Run(ctx context.Context, version string, args []string, streams Streams) int {
	root := newRoot(version, streams)
	root.SetArgs(append([]string{}, args...)) // nil would mean those of the process
	err := root.ExecuteContext(ctx)
	var f failure
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, errRefused):
		return ExitFailed
	case errors.As(err, &f):
		_, _ = fmt.Fprintf(streams.Err, "penstock: %v\n", err)
		return ExitFailed
	default:
		_, _ = fmt.Fprintf(streams.Err, "penstock: %v\nSee 'penstock --help'.\n", err)
		return ExitUsage
	}
}

func newRoot(version string, streams Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Rate limits as Kubernetes objects, enforced by Redis",
		Long: `Penstock turns Kubernetes manifests into policies that Redis enforces for every client.

Nothing here needs a cluster: validate applies the same rules as the API server, and dev serves the policies of a
folder, with a Redis of its own.`,
		Example: `  penstock validate -f config/samples
  penstock dev -f config/samples`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	root.AddCommand(newValidate(), newDev(), newDoctor(), newVersion(version))
	return root
}

// manifestFlags are how a command is told which manifests to read.
type manifestFlags struct {
	files     []string
	recursive bool
}

func (f *manifestFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "filename", "f", nil, "`FILE|DIR` with manifests (.yaml, .yml, .json), or - for standard input; may be repeated")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "read the folders below DIR too")
}

func (f *manifestFlags) check() error {
	if len(f.files) == 0 {
		return errors.New("nothing to read: name a file or a folder with -f")
	}
	if slices.Contains(f.files, "") {
		return errors.New("-f is empty: name a file or a folder")
	}
	return nil
}
