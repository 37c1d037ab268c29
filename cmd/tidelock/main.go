// Command tidelock is a self-hosted Azure Fluid Relay with customer-managed keys.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
	root := newRoot(options)
	root.SetArgs(args)
	err := unknownVerb(root, args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return 0
	}
	if isUsage(err) {
		command, _, _ := root.Find(args)
		cli.PrintError(errOut, cli.Hint(err, "'"+command.CommandPath()+" --help' says what there is"))
		return 2
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) && errors.Is(err, fs.ErrPermission) {
		err = cli.Hint(err, "run it as the user who owns "+path.Path)
	}
	cli.PrintError(errOut, err)
	return 1
}

func newRoot(options *cli.Options) *cobra.Command {
	root := cli.NewRoot(options)
	root.AddCommand(serveCommand(options), quickstartCommand(options), proxyCommand(options), dataCommand(options), backupCommand(options), versionCommand(options))
	return root
}

// unknownVerb refuses what is no command below a noun: cobra shows the noun's help, and
// calls that a success.
func unknownVerb(root *cobra.Command, args []string) error {
	noun, rest, err := root.Find(args)
	if err != nil || noun.Runnable() {
		return nil // cobra says what is wrong with it
	}
	noun.FParseErrWhitelist.UnknownFlags = true // they are flags of the verb that was meant
	err = noun.ParseFlags(rest)
	noun.FParseErrWhitelist.UnknownFlags = false
	if err != nil || noun.Flags().NArg() == 0 {
		return nil
	}
	return fmt.Errorf("unknown command %q for %q", noun.Flags().Arg(0), noun.CommandPath())
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
