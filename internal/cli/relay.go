package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
)

// API versions that the command line speaks.
const (
	versionFluidRelay = "2022-06-01"
	versionGroups     = "2021-04-01"
	versionVaults     = "2023-07-01"
	versionIdentities = "2023-01-31"
	versionPreview    = "2025-06-20-preview" // of Microsoft.FluidRelay
)

// relayServer is what the command line reads of a Fluid Relay resource.
type relayServer struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Location   string `json:"location"`
	Properties struct {
		TenantID  string `json:"frsTenantId"`
		Endpoints struct {
			Service []string `json:"serviceEndpoints"`
		} `json:"fluidRelayEndpoints"`
		Encryption *struct {
			CMK *struct {
				KeyURL string `json:"keyEncryptionKeyUrl"`
			} `json:"customerManagedKeyEncryption"`
		} `json:"encryption"`
	} `json:"properties"`
}

func (s relayServer) keyURL() string {
	if s.Properties.Encryption == nil || s.Properties.Encryption.CMK == nil {
		return "service-managed"
	}
	return s.Properties.Encryption.CMK.KeyURL
}

func (s relayServer) endpoint() string {
	if len(s.Properties.Endpoints.Service) == 0 {
		return ""
	}
	return s.Properties.Endpoints.Service[0]
}

// relayFlags name a relay resource.
type relayFlags struct{ name, group string }

func (o *Options) relayCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "relay", Short: "Fluid Relay resources of this server"})
	parent.AddCommand(o.relayListCommand(), o.relayShowCommand(), o.relayKeysCommand(), o.relayRegenerateCommand(), o.relayDeleteCommand(),
		o.onRelay("rotate-document-keys", "Have new data of each container sealed under a new key of its own; nobody is disconnected", func(ctx context.Context, client *Client, path string, p printer) error {
			return rotateKeys(ctx, client, path+"/rotateDocumentKeys", p)
		}))
	return parent
}

func (o *Options) relayListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the relays", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		var list struct {
			Value []json.RawMessage `json:"value"`
		}
		path := "/subscriptions/" + client.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/fluidRelayServers"
		if err := client.Do(c.Context(), http.MethodGet, path, versionFluidRelay, nil, &list); err != nil {
			return fmt.Errorf("list relays: %w", err)
		}
		rows := [][]string{relayHead}
		for _, raw := range list.Value {
			row, err := relayRow(raw)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		return p.print(list.Value, rows)
	}}
}

func (o *Options) relayShowCommand() *cobra.Command {
	return o.onRelay("show", "Show a relay", func(ctx context.Context, client *Client, path string, p printer) error {
		var raw json.RawMessage
		if err := client.Do(ctx, http.MethodGet, path, versionFluidRelay, nil, &raw); err != nil {
			return err
		}
		row, err := relayRow(raw)
		if err != nil {
			return err
		}
		return p.print(raw, [][]string{relayHead, row})
	})
}

var relayHead = []string{"NAME", "LOCATION", "TENANT", "ENDPOINT", "KEY"}

func relayRow(raw json.RawMessage) ([]string, error) {
	var s relayServer
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return []string{s.Name, s.Location, s.Properties.TenantID, s.endpoint(), s.keyURL()}, nil
}

func (o *Options) relayKeysCommand() *cobra.Command {
	return o.onRelay("keys", "Show the two keys that sign a relay's tokens", func(ctx context.Context, client *Client, path string, p printer) error {
		return printTenantKeys(ctx, client, path+"/listKeys", nil, p)
	})
}

func (o *Options) relayRegenerateCommand() *cobra.Command {
	var key string
	c := o.onRelay("regenerate-key", "Replace one of the two keys; tokens of the other stay good", func(ctx context.Context, client *Client, path string, p printer) error {
		return printTenantKeys(ctx, client, path+"/regenerateKey", map[string]string{"keyName": key}, p)
	})
	c.Flags().StringVar(&key, "key", "", "key1 or key2")
	required(c, "key")
	return c
}

func (o *Options) relayDeleteCommand() *cobra.Command {
	c := o.onRelay("delete", "Delete a relay with all its containers and destroy its keys; it cannot be brought back", func(ctx context.Context, client *Client, path string, p printer) error {
		// Asked for first: a deletion of what is not there succeeds, which would hide a
		// mistyped name.
		if err := client.Do(ctx, http.MethodGet, path, versionFluidRelay, nil, nil); err != nil {
			return err
		}
		return deleteWithReceipt(ctx, client, path, p)
	})
	c.Flags().Lookup("name").DefValue = ""
	required(c, "name") // never the one that the other commands take for granted
	return c
}

func printTenantKeys(ctx context.Context, client *Client, path string, in any, p printer) error {
	var keys struct {
		Key1 string `json:"key1"`
		Key2 string `json:"key2"`
	}
	if err := client.Do(ctx, http.MethodPost, path, versionFluidRelay, in, &keys); err != nil {
		return err
	}
	return p.print(keys, [][]string{{"KEY", "VALUE"}, {"key1", keys.Key1}, {"key2", keys.Key2}})
}

// onRelay makes a command that works on one relay, named by its flags.
func (o *Options) onRelay(use, short string, run func(context.Context, *Client, string, printer) error) *cobra.Command {
	var f relayFlags
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		if err := run(c.Context(), client, client.relayPath(f), p); err != nil {
			return fmt.Errorf("%s %s: %w", c.Parent().Name(), c.Name(), err)
		}
		return nil
	}}
	c.Flags().StringVar(&f.name, "name", seedRelay, "name of the relay")
	c.Flags().StringVar(&f.group, "resource-group", seedGroup, "its resource group")
	return c
}

func (c *Client) relayPath(f relayFlags) string {
	return c.groupPath(f.group) + "/providers/Microsoft.FluidRelay/fluidRelayServers/" + f.name
}

func (c *Client) groupPath(group string) string {
	return "/subscriptions/" + c.profile.SubscriptionID + "/resourceGroups/" + group
}

// decodeBody reads a bounded JSON body that may have been read before.
func decodeBody(r *http.Response, out any) error {
	if r == nil || r.Body == nil {
		return io.ErrUnexpectedEOF
	}
	return json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(out)
}
