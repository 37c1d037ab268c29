package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Options of the command line that all commands share.
type Options struct {
	Out, Err io.Writer
	// ProfilePath finds the profile of the server whose data directory is given.
	ProfilePath func(dataDir string) (string, error)

	dataDir string
	output  string
}

// NewRoot returns the command tree of everything that speaks the public API; the
// caller adds the commands that run a server.
func NewRoot(o *Options) *cobra.Command {
	root := &cobra.Command{
		Use:           "tidelock",
		Short:         "A self-hosted Azure Fluid Relay with customer-managed keys",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(o.Out)
	root.SetErr(o.Err)
	root.PersistentFlags().StringVar(&o.dataDir, "data", "", "the server's data directory (default: $XDG_DATA_HOME/tidelock, or ~/.local/share/tidelock)")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(o.relayCommand(), o.containerCommand(), o.keyvaultCommand(), o.cmkCommand(), o.auditCommand(), o.receiptCommand(), o.nodeCommand(), o.serviceKeyCommand(), o.benchCommand(), o.appCommand(), o.directoryCommand())
	return root
}

// DataDir is the --data flag; empty for the default.
func (o *Options) DataDir() string { return o.dataDir }

// withOutput gives a command that prints results its --output flag.
func (o *Options) withOutput(c *cobra.Command) *cobra.Command {
	c.PersistentFlags().StringVar(&o.output, "output", "table", "table or json")
	return c
}

// Printed gives a command of the caller's an --output flag, and returns what prints as it
// says: a value as JSON, or rows as a table.
func (o *Options) Printed(c *cobra.Command) func(value any, rows [][]string) error {
	o.withOutput(c)
	return func(value any, rows [][]string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		return p.print(value, rows)
	}
}

func (o *Options) printer() (printer, error) {
	if o.output != "table" && o.output != "json" {
		return printer{}, fmt.Errorf("--output %q is neither table nor json", o.output)
	}
	return printer{w: o.Out, json: o.output == "json"}, nil
}

// connect returns a client for the server of --data.
func (o *Options) connect() (*Client, error) {
	path, err := o.ProfilePath(o.dataDir)
	if err != nil {
		return nil, err
	}
	profile, err := LoadProfile(path)
	if err != nil {
		return nil, err
	}
	return NewClient(profile)
}

// required marks flags that a command cannot do without.
func required(c *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			panic("internal error: " + err.Error())
		}
	}
}
