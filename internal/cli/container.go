package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (o *Options) containerCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "container", Short: "Containers of a relay"})
	list := o.onContainer("list", "List the containers of a relay", listContainers)
	show := o.onContainer("show", "Show a container", showContainer)
	remove := o.onContainer("delete", "Disconnect a container's clients, destroy its key and remove it; it cannot be brought back", deleteContainer)
	accept := o.onContainer("accept-rollback", "Serve a container that was put back to an older state, as it is now", acceptRollback)
	rotate := o.onContainer("rotate-key", "Have a container's new data sealed under a new key of its own; nobody is disconnected", rotateKey)
	for _, c := range []*cobra.Command{show, remove, accept, rotate} {
		c.Flags().String("id", "", "id of the container")
		required(c, "id")
	}
	parent.AddCommand(list, show, remove, accept, rotate)
	return parent
}

// onContainer makes a command that works on a relay's containers. run is given the
// path of the one that --id names, or of all.
func (o *Options) onContainer(use, short string, run func(context.Context, *Client, string, printer) error) *cobra.Command {
	var c *cobra.Command
	c = o.onRelay(use, short, func(ctx context.Context, client *Client, path string, p printer) error {
		path += "/fluidRelayContainers"
		if id := c.Flags().Lookup("id"); id != nil {
			path += "/" + url.PathEscape(id.Value.String())
		}
		return run(ctx, client, path, p)
	})
	return c
}

func listContainers(ctx context.Context, client *Client, path string, p printer) error {
	all, err := client.List(ctx, path, versionFluidRelay)
	if err != nil {
		return err
	}
	return printContainers(p, all, all...)
}

func showContainer(ctx context.Context, client *Client, path string, p printer) error {
	var raw json.RawMessage
	if err := client.Do(ctx, http.MethodGet, path, versionFluidRelay, nil, &raw); err != nil {
		return err
	}
	return printContainers(p, raw, raw)
}

// deleteContainer asks for the container first: a deletion of what is not there
// succeeds, which would hide a mistyped id.
func deleteContainer(ctx context.Context, client *Client, path string, p printer) error {
	var raw json.RawMessage
	if err := client.Do(ctx, http.MethodGet, path, versionFluidRelay, nil, &raw); err != nil {
		return err
	}
	return deleteWithReceipt(ctx, client, path, p)
}

func acceptRollback(ctx context.Context, client *Client, path string, p printer) error {
	if err := client.Do(ctx, http.MethodPost, path+"/acceptRollback", versionPreview, nil, nil); err != nil {
		return err
	}
	return showContainer(ctx, client, path, p)
}

func rotateKey(ctx context.Context, client *Client, path string, p printer) error {
	return rotateKeys(ctx, client, path+"/rotateKey", p)
}

// rotateKeys replaces document keys, and says how many.
func rotateKeys(ctx context.Context, client *Client, path string, p printer) error {
	var answer struct {
		Rotated int `json:"rotated"`
	}
	if err := client.Do(ctx, http.MethodPost, path, versionPreview, nil, &answer); err != nil {
		return err
	}
	return p.print(answer, [][]string{{"KEYS REPLACED"}, {strconv.Itoa(answer.Rotated)}})
}

// printContainers prints value as JSON, or its containers as a table.
func printContainers(p printer, value any, containers ...json.RawMessage) error {
	rows := [][]string{{"ID", "CREATED", "LAST ACCESS"}}
	for _, raw := range containers {
		var c struct {
			Properties struct {
				ID       string `json:"frsContainerId"`
				Created  string `json:"creationTime"`
				Accessed string `json:"lastAccessTime"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return fmt.Errorf("container: %w", err)
		}
		rows = append(rows, []string{c.Properties.ID, c.Properties.Created, c.Properties.Accessed})
	}
	return p.print(value, rows)
}

// List returns all items of a list, page by page.
func (c *Client) List(ctx context.Context, path, apiVersion string) ([]json.RawMessage, error) {
	all := []json.RawMessage{}
	for next := c.profile.ManagementURL + path + "?api-version=" + apiVersion; next != ""; {
		// Our token goes to our server only, whatever a link says.
		if !strings.HasPrefix(next, c.profile.ManagementURL+"/") {
			return nil, errors.New("the list goes on at another server")
		}
		var page struct {
			Value []json.RawMessage `json:"value"`
			Next  string            `json:"nextLink"`
		}
		if err := c.send(ctx, http.MethodGet, next, nil, &page); err != nil {
			return nil, err
		}
		all, next = append(all, page.Value...), page.Next
	}
	return all, nil
}
