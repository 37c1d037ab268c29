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
	"time"

	"github.com/spf13/cobra"
)

// node is a process of a cluster as the management plane shows it.
type node struct {
	Name       string `json:"name"`
	Properties struct {
		State     string `json:"state"`
		URL       string `json:"url"`
		Started   string `json:"startedAt"`
		Seen      string `json:"lastSeenAt"`
		Documents int    `json:"documents"`
		Sessions  int    `json:"sessions"`
	} `json:"properties"`
}

func (o *Options) nodeCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "node", Short: "The processes that serve together on one database"})
	parent.AddCommand(o.nodeListCommand(), o.nodeDrainCommand(), o.nodeRebalanceCommand())
	return parent
}

func (o *Options) nodeListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the nodes, their state and what they carry", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, client, err := o.ready()
		if err != nil {
			return err
		}
		all, raw, err := listNodes(c.Context(), client)
		if err != nil {
			return err
		}
		rows := [][]string{{"NODE", "STATE", "URL", "DOCUMENTS", "SESSIONS", "STARTED", "LAST SEEN"}}
		for _, n := range all {
			rows = append(rows, []string{n.Name, n.Properties.State, n.Properties.URL, strconv.Itoa(n.Properties.Documents),
				strconv.Itoa(n.Properties.Sessions), n.Properties.Started, n.Properties.Seen})
		}
		return p.print(raw, rows)
	}}
}

func (o *Options) nodeDrainCommand() *cobra.Command {
	var name string
	var wait time.Duration
	c := &cobra.Command{
		Use: "drain", Short: "Move all documents of a node to the others; it then only passes requests on", Args: cobra.NoArgs,
		Long: "Has a node give up its documents, in order and without losing an op; their clients reconnect once. Returns when\n" +
			"none is left, or after --wait. The node takes documents again after it was started anew.",
		RunE: func(c *cobra.Command, _ []string) error {
			p, client, err := o.ready()
			if err != nil {
				return err
			}
			n, err := findNode(c.Context(), client, name)
			if err != nil {
				return err
			}
			path := client.nodesPath() + "/" + url.PathEscape(n.Name) + "/drain"
			if err := client.Do(c.Context(), http.MethodPost, path, versionPreview, nil, nil); err != nil {
				return err
			}
			n, err = awaitDrained(c.Context(), client, n.Name, wait)
			if err != nil {
				return err
			}
			return p.print(n, [][]string{{"NODE", "STATE", "DOCUMENTS"}, {n.Name, n.Properties.State, strconv.Itoa(n.Properties.Documents)}})
		},
	}
	c.Flags().StringVar(&name, "node", "", "name or URL of the node, see 'tidelock node list'")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for its documents to be gone")
	_ = c.MarkFlagRequired("node") // fails for an unknown flag only
	return c
}

func (o *Options) nodeRebalanceCommand() *cobra.Command {
	return &cobra.Command{Use: "rebalance", Short: "Have all nodes leave idle documents that another node should have, as after nodes were added", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, client, err := o.ready()
		if err != nil {
			return err
		}
		if err := client.Do(c.Context(), http.MethodPost, strings.TrimSuffix(client.nodesPath(), "nodes")+"rebalanceNodes", versionPreview, nil, nil); err != nil {
			return err
		}
		return p.print(map[string]bool{"accepted": true}, [][]string{{"The nodes leave idle documents within a second; whoever asks for one next gets it where it should be."}})
	}}
}

// ready returns what every command here needs.
func (o *Options) ready() (printer, *Client, error) {
	p, err := o.printer()
	if err != nil {
		return p, nil, err
	}
	client, err := o.connect()
	return p, client, err
}

func (c *Client) nodesPath() string {
	return "/subscriptions/" + c.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/nodes"
}

func listNodes(ctx context.Context, client *Client) ([]node, json.RawMessage, error) {
	var raw json.RawMessage
	err := client.Do(ctx, http.MethodGet, client.nodesPath(), versionPreview, nil, &raw)
	var refused *APIError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil, nil, Hint(err, "nodes are there when a server keeps its data in a database: 'tidelock serve --store postgres://…'")
	}
	if err != nil {
		return nil, nil, err
	}
	var answer struct {
		Value []node `json:"value"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	return answer.Value, raw, nil
}

func findNode(ctx context.Context, client *Client, name string) (node, error) {
	all, _, err := listNodes(ctx, client)
	if err != nil {
		return node{}, err
	}
	var urls []string
	for _, n := range all {
		if n.Name == name || n.Properties.URL == strings.TrimSuffix(name, "/") && n.Properties.State != "Dead" {
			return n, nil
		}
		urls = append(urls, n.Properties.URL)
	}
	return node{}, fmt.Errorf("no node is called %q; there are: %s", name, strings.Join(urls, ", "))
}

func awaitDrained(ctx context.Context, client *Client, name string, wait time.Duration) (node, error) {
	for end := time.Now().Add(wait); ; {
		n, err := findNode(ctx, client, name)
		if err != nil || n.Properties.State == "Draining" && n.Properties.Documents == 0 {
			return n, err
		}
		if time.Now().After(end) {
			return n, fmt.Errorf("after %s node %s still has %d documents (%s); it goes on draining", wait, name, n.Properties.Documents, n.Properties.State)
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
