package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock-dev/penstock/internal/cli/check"
	"github.com/penstock-dev/penstock/internal/cli/manifest"
)

func newValidate() *cobra.Command {
	var flags manifestFlags
	cmd := &cobra.Command{
		Use:   "validate -f FILE|DIR [-f ...] [-R]",
		Short: "Check manifests as the API server would, without a cluster",
		Long: `Checks the manifests of Penstock's kinds: schema, defaults and CEL rules as the API server applies them with strict
field validation, and what the operator checks when it compiles them. Manifests of other API groups are skipped and
counted. Rules about changes (immutable fields) need the stored object and do not apply.

Each manifest is checked by itself, so that overlays may be checked together: an object that is there twice is counted
twice. (penstock dev, which serves all of them at once, refuses that.)

Exits with 0 when nothing is refused, 1 when something is, 2 when there is nothing to read.`,
		Example: `  penstock validate -f config/samples
  penstock validate -R -f deploy/
  kustomize build overlays/prod | penstock validate -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			return validate(cmd.Context(), flags, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	flags.add(cmd)
	return cmd
}

func validate(ctx context.Context, flags manifestFlags, in io.Reader, out io.Writer) error {
	checker, err := check.NewChecker()
	if err != nil {
		return failed(err)
	}
	objects, problems, err := manifest.Read(flags.files, flags.recursive, in)
	if err != nil {
		return err
	}
	result := checker.Objects(ctx, objects)
	// What could not be read comes first: nothing is known of what else it hides.
	problems = append(problems, result.Problems...)
	for _, p := range problems {
		if _, err := fmt.Fprintln(out, p); err != nil {
			return failed(err)
		}
	}
	refused := result.Refused + (len(problems) - len(result.Problems))
	if _, err := fmt.Fprintf(out, "%d valid, %d refused, %d skipped\n", result.Valid, refused, result.Skipped); err != nil {
		return failed(err)
	}
	if refused > 0 {
		return errRefused
	}
	return nil
}
