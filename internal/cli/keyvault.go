package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/spf13/cobra"
)

// keyFlags name a key, or one version of it.
type keyFlags struct{ vault, hsm, name, version string }

func (o *Options) keyvaultCommand() *cobra.Command {
	parent := &cobra.Command{Use: "keyvault", Short: "Key vaults of this server"}
	key := o.withOutput(&cobra.Command{Use: "key", Short: "Keys in a vault"})
	key.AddCommand(
		o.keyCommand("show", "Show a key", true, o.showKey),
		o.keyCommand("create", "Make an RSA-3072 key, or a new version of one", false, o.createKey),
		o.keyCommand("enable", "Enable a key version: what it protects is served again within 30 seconds", true, o.setKeyEnabled(true)),
		o.keyCommand("disable", "Disable a key version: within 60 seconds nothing it protects is served", true, o.setKeyEnabled(false)),
		o.listKeysCommand(),
	)
	parent.AddCommand(key, o.keyvaultLogCommand())
	return parent
}

func (o *Options) keyCommand(use, short string, versioned bool, run func(context.Context, *azkeys.Client, keyFlags) (azkeys.KeyBundle, error)) *cobra.Command {
	var f keyFlags
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, keys, err := o.vault(f)
		if err != nil {
			return err
		}
		bundle, err := run(c.Context(), keys, f)
		if err != nil {
			return client.vaultError(use+" key "+f.name, err)
		}
		k := keyView(bundle.Key.KID, bundle.Key.Kty, bundle.Attributes)
		return p.print(k, [][]string{{"KEY", "TYPE", "ENABLED", "EXPIRES"}, {k.ID, k.Type, fmt.Sprint(k.Enabled), k.expiry()}})
	}}
	f.register(c)
	c.Flags().StringVar(&f.name, "name", "", "name of the key")
	required(c, "name")
	if versioned {
		c.Flags().StringVar(&f.version, "version", "", "version of the key (default: the newest)")
	}
	return c
}

// register adds the flags that say where the key is.
func (f *keyFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.vault, "vault", "", "name of the vault")
	c.Flags().StringVar(&f.hsm, "hsm", "", "name of the managed HSM, instead of a vault")
	c.MarkFlagsOneRequired("vault", "hsm")
	c.MarkFlagsMutuallyExclusive("vault", "hsm")
}

func (o *Options) vault(f keyFlags) (*Client, *azkeys.Client, error) {
	client, err := o.connect()
	if err != nil {
		return nil, nil, err
	}
	if f.hsm != "" {
		keys, err := client.HSMKeys(f.hsm)
		return client, keys, err
	}
	keys, err := client.Keys(f.vault)
	return client, keys, err
}

func (o *Options) showKey(ctx context.Context, keys *azkeys.Client, f keyFlags) (azkeys.KeyBundle, error) {
	r, err := keys.GetKey(ctx, f.name, f.version, nil)
	return r.KeyBundle, err
}

func (o *Options) createKey(ctx context.Context, keys *azkeys.Client, f keyFlags) (azkeys.KeyBundle, error) {
	if f.hsm != "" {
		return createRSA(ctx, keys, f.name, azkeys.KeyTypeRSAHSM)
	}
	return createRSA(ctx, keys, f.name, azkeys.KeyTypeRSA)
}

func createRSA(ctx context.Context, keys *azkeys.Client, name string, kind azkeys.KeyType) (azkeys.KeyBundle, error) {
	r, err := keys.CreateKey(ctx, name, azkeys.CreateKeyParameters{
		Kty: &kind, KeySize: to.Ptr(int32(3072)),
	}, nil)
	return r.KeyBundle, err
}

func (o *Options) setKeyEnabled(enabled bool) func(context.Context, *azkeys.Client, keyFlags) (azkeys.KeyBundle, error) {
	return func(ctx context.Context, keys *azkeys.Client, f keyFlags) (azkeys.KeyBundle, error) {
		version := f.version
		if version == "" {
			newest, err := keys.GetKey(ctx, f.name, "", nil)
			if err != nil {
				return azkeys.KeyBundle{}, err
			}
			version = newest.Key.KID.Version()
		}
		r, err := keys.UpdateKey(ctx, f.name, version, azkeys.UpdateKeyParameters{
			KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(enabled)},
		}, nil)
		return r.KeyBundle, err
	}
}

func (o *Options) listKeysCommand() *cobra.Command {
	var f keyFlags
	c := &cobra.Command{Use: "list", Short: "List the keys of a vault", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, keys, err := o.vault(f)
		if err != nil {
			return err
		}
		views, rows := []key{}, [][]string{{"KEY", "ENABLED", "EXPIRES"}}
		for pager := keys.NewListKeyPropertiesPager(nil); pager.More(); {
			page, err := pager.NextPage(c.Context())
			if err != nil {
				return client.vaultError("list the keys of "+f.vault+f.hsm, err)
			}
			for _, k := range page.Value {
				view := keyView(k.KID, nil, k.Attributes) // a list does not tell types
				views = append(views, view)
				rows = append(rows, []string{view.ID, fmt.Sprint(view.Enabled), view.expiry()})
			}
		}
		return p.print(views, rows)
	}}
	f.register(c)
	return c
}

// key is what the command line shows of a key.
type key struct {
	ID      string     `json:"kid"`
	Type    string     `json:"kty,omitempty"`
	Enabled bool       `json:"enabled"`
	Expires *time.Time `json:"expires,omitempty"`
	Updated *time.Time `json:"updated,omitempty"`
}

func keyView(id *azkeys.ID, kty *azkeys.KeyType, a *azkeys.KeyAttributes) key {
	var k key
	if id != nil {
		k.ID = string(*id)
	}
	if kty != nil {
		k.Type = string(*kty)
	}
	if a != nil {
		k.Enabled = a.Enabled != nil && *a.Enabled
		k.Expires, k.Updated = a.Expires, a.Updated
	}
	return k
}

func (k key) expiry() string {
	if k.Expires == nil {
		return "never"
	}
	return k.Expires.UTC().Format(time.RFC3339)
}

// vaultError says what a vault refused, in its own words, without the SDK's dump
// of the exchange.
func (c *Client) vaultError(what string, err error) error {
	var r *azcore.ResponseError
	if !errors.As(err, &r) {
		return fmt.Errorf("%s: %w", what, c.explain(err))
	}
	var e struct {
		Error struct{ Code, Message string }
	}
	if decodeBody(r.RawResponse, &e) != nil || e.Error.Message == "" {
		return fmt.Errorf("%s: the vault answered %d %s", what, r.StatusCode, r.ErrorCode)
	}
	return fmt.Errorf("%s: %s: %s", what, e.Error.Code, e.Error.Message)
}
