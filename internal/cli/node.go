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
	parent.AddCommand(o.nodeListCommand(), o.nodeDrainCommand(), o.nodeUncordonCommand(), o.nodeRebalanceCommand())
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
	return o.nodeOrderCommand(nodeOrder{
		verb: "drain", short: "Move all documents of a node to the others; it then only passes requests on",
		long: "Has a node give up its documents, in order and without losing an op; their clients reconnect once. Returns when\n" +
			"none is left, or after --wait. 'tidelock node uncordon' undoes it, and so does a new start.",
		done:    func(n node) bool { return n.Properties.State == "Draining" && n.Properties.Documents == 0 },
		settles: drainSettles,
		waitFor: "how long to wait for its documents to be gone",
	})
}

func (o *Options) nodeUncordonCommand() *cobra.Command {
	return o.nodeOrderCommand(nodeOrder{
		verb: "uncordon", short: "Have a node that was drained take documents again",
		long: "Undoes 'tidelock node drain' without a restart: the node takes new documents and those that nobody has. What\n" +
			"others took meanwhile stays there; 'tidelock node rebalance' brings back what is idle.",
		done:    func(n node) bool { return n.Properties.State == "Active" },
		waitFor: "how long to wait for its state",
	})
}

// drainSettles: a node takes documents until all others know that it does not, for some 3 s, and
// how many it has is listed up to 3 s late.
const drainSettles = 6 * time.Second

// nodeOrder is a command that a node carries out, which shows in how it is listed.
type nodeOrder struct {
	verb, short, long string
	done              func(node) bool
	settles           time.Duration // done counts only so long after the order
	waitFor           string
}

func (o *Options) nodeOrderCommand(order nodeOrder) *cobra.Command {
	var name string
	var wait time.Duration
	c := &cobra.Command{Use: order.verb, Short: order.short, Long: order.long, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, client, err := o.ready()
		if err != nil {
			return err
		}
		n, err := findNode(c.Context(), client, name)
		if err != nil {
			return err
		}
		path := client.nodesPath() + "/" + url.PathEscape(n.Name) + "/" + order.verb
		if err := client.Do(c.Context(), http.MethodPost, path, versionPreview, nil, nil); err != nil {
			return err
		}
		n, err = awaitOrder(c.Context(), client, n.Name, order, wait)
		if err != nil {
			return err
		}
		return p.print(n, [][]string{{"NODE", "STATE", "DOCUMENTS"}, {n.Name, n.Properties.State, strconv.Itoa(n.Properties.Documents)}})
	}}
	c.Flags().StringVar(&name, "node", "", "name or URL of the node, see 'tidelock node list'")
	c.Flags().DurationVar(&wait, "wait", time.Minute, order.waitFor)
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

func awaitOrder(ctx context.Context, client *Client, name string, order nodeOrder, wait time.Duration) (node, error) {
	for start := time.Now(); ; {
		n, err := findNode(ctx, client, name)
		since := time.Since(start)
		if err != nil || since >= order.settles && order.done(n) {
			return n, err
		}
		if since >= max(wait, order.settles) {
			return n, fmt.Errorf("%s after the order to %s node %s is %s and has %d documents; it goes on", wait, order.verb, name, n.Properties.State, n.Properties.Documents)
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
