package cli

import (
	"context"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// directory is what the command line shows of a directory ("tenant" in az's words).
type directory struct {
	ID      string    `json:"id"`
	Name    string    `json:"displayName"`
	Created time.Time `json:"createdDateTime"`

	Subscription  string `json:"subscriptionId,omitempty"`
	Administrator *struct {
		ID     string `json:"id"`
		AppID  string `json:"appId"`
		Secret string `json:"secretText"`
	} `json:"administrator,omitempty"`
}

func (o *Options) directoryCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "directory", Short: "Directories (tenants) of this server"})
	parent.AddCommand(
		o.appRun("list", "List the directories", (*Client).listDirectories),
		o.appRun("create", "Make a directory with an administrator and a subscription; the secret is shown once", (*Client).createDirectory, "name"),
		o.appRun("rotate-key", "Sign tokens with a new key from now on; those given stay good to their end", (*Client).rotateSigningKey),
	)
	return parent
}

func (c *Client) listDirectories(ctx context.Context, p printer, _ appFlags) error {
	var found struct{ Value []directory }
	if err := c.graph(ctx, http.MethodGet, "/beta/directories", nil, &found); err != nil {
		return err
	}
	rows := [][]string{{"NAME", "ID", "CREATED"}}
	for _, d := range found.Value {
		rows = append(rows, []string{d.Name, d.ID, d.Created.UTC().Format(time.DateOnly)})
	}
	return p.print(found.Value, rows)
}

func (c *Client) createDirectory(ctx context.Context, p printer, f appFlags) error {
	var d directory
	if err := c.graph(ctx, http.MethodPost, "/beta/directories", map[string]string{"displayName": f.name}, &d); err != nil {
		return err
	}
	return p.print(d, [][]string{
		{"DIRECTORY", d.ID}, {"SUBSCRIPTION", d.Subscription}, {"CLIENT ID", d.Administrator.AppID}, {"SECRET", d.Administrator.Secret},
	})
}

func (c *Client) rotateSigningKey(ctx context.Context, _ printer, _ appFlags) error {
	return c.graph(ctx, http.MethodPost, "/beta/rotateSigningKey", nil, nil)
}
