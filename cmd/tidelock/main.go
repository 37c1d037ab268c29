// Command tidelock is a self-hosted Azure Fluid Relay with customer-managed keys.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command: exit code 0, 1 for a failure, 2 for a wrong usage.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	options := &cli.Options{Out: out, Err: errOut, ProfilePath: app.ProfilePath}
	root := cli.NewRoot(options)
	root.AddCommand(serveCommand(options), quickstartCommand(options), proxyCommand(options), dataCommand(options), backupCommand(options), versionCommand(options))
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	cli.PrintError(errOut, err)
	if isUsage(err) {
		return 2
	}
	return 1
}

// isUsage tells the errors of cobra's own parsing, which have no type.
func isUsage(err error) bool {
	for _, prefix := range []string{"unknown command", "unknown flag", "unknown shorthand", "required flag", "invalid argument", "flag needs an argument", "accepts ", "at least one of the flags", "if any flags in the group"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}
