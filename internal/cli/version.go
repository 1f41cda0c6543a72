package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "penstock %s (%s, %s/%s)\n",
				cmp.Or(version, buildVersion()), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return failed(err)
		},
	}
}

// buildVersion is what `go install …@version` and a checkout leave in the binary.
func buildVersion() string {
	info, found := debug.ReadBuildInfo()
	if !found {
		return "unknown"
	}
	return cmp.Or(info.Main.Version, "unknown")
}
