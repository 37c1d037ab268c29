package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
)

func serveCommand(o *cli.Options) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{Use: "serve", Short: "Serve the relay and its management plane", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		server, err := f.open(c.Context(), o)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.Out, "tidelock: relay at %s, management at %s\n", server.RelayURL(), server.ManagementURL())
		if url := server.MetricsURL(); url != "" {
			fmt.Fprintf(o.Out, "tidelock: metrics at %s\n", url)
		}
		announceIdentities(o.Out, server)
		f.announceLocal(o.Out)
		return server.Serve(c.Context())
	}}
	f.register(c)
	c.Flags().StringVar(&f.config.KeyStore, "keystore", "embedded", "embedded: relays use keys of this server's vaults; azure: also those of Azure Key Vault and Managed HSM")
	c.Flags().StringVar(&f.config.KeyStoreConfig, "keystore-config", "", "file that says which credential stands for which identity, for --keystore azure")
	return c
}

func quickstartCommand(o *cli.Options) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "quickstart",
		Short: "Set up a relay with a customer-managed key on this machine, and serve it",
		Long: "Makes what is not there yet: a data directory, a local certificate authority, a directory with an\n" +
			"administrator, a key vault with an RSA-3072 key, an identity that may use it, and a relay under that\n" +
			"key. Then serves, as 'tidelock serve' does. A second run finds and keeps it all.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return quickstart(c.Context(), &f, o) },
	}
	f.register(c)
	return c
}

func quickstart(ctx context.Context, f *serveFlags, o *cli.Options) error {
	started := time.Now()
	server, err := f.open(ctx, o)
	if err != nil {
		return err
	}
	profile, err := server.Admin(ctx)
	if err != nil {
		server.Close()
		return err
	}
	g, serving := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(serving) })
	g.Go(func() error {
		client, err := cli.NewClient(profile)
		if err != nil {
			return err
		}
		seeded, err := client.Seed(serving)
		if err != nil {
			return err
		}
		announceIdentities(o.Out, server)
		f.announceLocal(o.Out)
		return banner.Execute(o.Out, map[string]any{
			"Seeded": seeded, "Profile": profile, "DataDir": server.DataDir(),
			"DataFlag": dataFlag(o.DataDir()), "Took": time.Since(started).Round(time.Millisecond),
		})
	})
	return g.Wait()
}

func dataFlag(dir string) string {
	if dir == "" {
		return ""
	}
	return " --data " + dir
}

// serveFlags are the flags of the commands that run a server.
type serveFlags struct {
	config app.Config
	grace  time.Duration
	hold   time.Duration
	level  slog.Level
}

func (f *serveFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.config.RelayAddr, "relay", "127.0.0.1:7070", "address of the relay listener")
	c.Flags().StringVar(&f.config.ManagementAddr, "management", "127.0.0.1:8443", "address of the management listener (always TLS)")
	c.Flags().StringVar(&f.config.MetricsAddr, "metrics", "", "address of a listener for Prometheus metrics, on loopback, such as 127.0.0.1:9464 (default: none)")
	c.Flags().StringVar(&f.config.RelayURL, "relay-url", "", "how clients reach the relay (default: the listener's address)")
	c.Flags().StringVar(&f.config.RelayCert, "relay-cert", "", "PEM certificate: the relay then speaks TLS")
	c.Flags().StringVar(&f.config.RelayKey, "relay-key", "", "PEM private key of --relay-cert")
	c.Flags().StringVar(&f.config.Anchors, "anchors", "", "file of head anchors, which find out data that was put back, best on another disk (default: anchors, beside the service key)")
	c.Flags().IntVar(&f.config.KeyRetentionDays, "key-retention-days", app.DefaultKeyRetentionDays, "for how many days after a deletion copies of the data from before can be opened")
	c.Flags().IntVar(&f.config.Keys.DocumentKeyDays, "document-key-days", app.DefaultDocumentKeyDays, "how old a container's key gets before new data is sealed under another; 0: it is replaced on demand only")
	f.registerStore(c)
	c.Flags().StringArrayVar(&f.config.PrivateIssuers, "private-issuer", nil, "https URL of an OpenID provider in this network whose tokens may be trusted (may be repeated)")
	c.Flags().StringArrayVar(&f.config.EventHosts, "event-webhook-host", nil, "host or host:port that events of key vaults may be sent to by https (may be repeated)")
	registerToken(c, &f.config.PKCS11, "PKCS#11 library of the token that keeps the keys of managed HSMs and of premium vaults' hardware types (default: none)")
	c.Flags().StringVar(&f.config.PassphraseFile, "service-key-passphrase-file", "", "file with the passphrase that the service key is sealed by, from now on")
	c.Flags().BoolVar(&f.config.SealServiceKey, "seal-service-key", false, "keep the service key sealed under a key in the PKCS#11 token, from now on; without the token the data cannot be opened then")
	c.Flags().StringVar(&f.config.TrustedIssuers, "trusted-issuers", "", "file with OpenID providers whose access tokens are taken too, such as an Entra tenant")
	c.Flags().StringVar(&f.config.Identity.Addr, "identity-endpoint", "", "address where workloads of this machine get tokens of managed identities, on loopback, such as 127.0.0.1:8445 (default: none)")
	c.Flags().StringArrayVar(&f.config.Identity.Identities, "identity", nil, "resource id of an identity that may be had at --identity-endpoint (may be repeated)")
	c.Flags().BoolVar(&f.config.Identity.IMDS, "identity-imds", false, "let --identity-endpoint answer without a secret too, as a virtual machine's does: every program of this machine may then have the identities")
	f.registerLimits(c)
	c.Flags().DurationVar(&f.grace, "cmk-grace", app.DefaultGrace, "how long an outage of a key vault is ridden out, up to 24h; 0: not at all")
	c.Flags().DurationVar(&f.hold, "cmk-hold", app.DefaultHold, "how long clients of a revoked key are held before they are closed; 0: not at all")
	c.Flags().BoolVar(&f.config.Keys.RequirePurgeProtection, "cmk-require-purge-protection", false, "refuse keys of vaults without soft delete and purge protection (default: warn of them)")
	c.Flags().IntVar(&f.config.AutoKeyVersionQuota, "cmk-auto-version-quota", app.DefaultAutoKeyVersionQuota, "how many relays may follow their keys' newest versions")
	c.Flags().BoolVar(&f.config.Local, "local", false, "local mode: also serve tenant \"local\" without checking tokens, for development; on loopback only")
	f.level = slog.LevelWarn
	c.Flags().TextVar(&f.level, "log-level", slog.LevelWarn, "debug, info, warn or error")
}

// registerToken has the flags of a PKCS#11 token; module says what it is for.
func registerToken(c *cobra.Command, t *app.PKCS11, module string) {
	c.Flags().StringVar(&t.Module, "pkcs11-module", "", module)
	c.Flags().StringVar(&t.Label, "pkcs11-token", "", "label of the token")
	c.Flags().StringVar(&t.PINFile, "pkcs11-pin-file", "", "file with the token's user PIN")
}

func (f *serveFlags) registerStore(c *cobra.Command) {
	s := &f.config.Store
	c.Flags().StringVar(&s.URL, "store", "", "keep the data in a PostgreSQL database, postgres://user@host/database, which several nodes may share (default: in the data directory)")
	c.Flags().StringVar(&s.PasswordFile, "store-password-file", "", "file with the database's password, read for each connection")
	c.Flags().IntVar(&s.PoolSize, "store-pool-size", 0, "connections of this node to the database at most (default 16)")
	c.Flags().DurationVar(&s.StatementTimeout, "store-statement-timeout", 0, "end a statement of the database that takes longer (default 30s)")
	c.Flags().BoolVar(&s.WithoutStandby, "store-without-standby", false, "take a database that names no synchronous standby: it is replicated beneath, or never fails over")
	n := &f.config.Node
	c.Flags().StringVar(&n.URL, "node-url", "", "with --store: how the other nodes on the database reach this one's relay listener (default: its address)")
	c.Flags().BoolVar(&n.Direct, "direct-nodes", false, "with --store: session discovery sends clients to a document's node itself, at its --node-url")
	c.Flags().StringVar(&n.CAFile, "node-ca", "", "with --store: PEM file of the authorities of the other nodes' certificates (default: the system's)")
	c.Flags().BoolVar(&s.MayLoseWrites, "store-may-lose-writes", false, "take a database that acknowledges writes before they are durable")
	c.Flags().StringVar(&s.Blobs, "blobs", "", "keep large objects of a database in an object store: azure:https://account.blob.core.windows.net/container, s3:https://host/bucket or dir:/path")
	c.Flags().StringVar(&s.BlobsCredentialsFile, "blobs-credentials-file", "", "JSON file with the object store's credentials (default: a managed identity, or the environment)")
}

// registerLimits has the limits that installations differ in; docs/limits.md has all.
func (f *serveFlags) registerLimits(c *cobra.Command) {
	l, d := &f.config.Limits, app.DefaultLimits()
	c.Flags().IntVar(&l.ClientsPerDocument, "max-clients-per-document", d.ClientsPerDocument, "how many clients may be connected to one document")
	c.Flags().DurationVar(&l.OpRetention, "op-retention", d.OpRetention, "how long to keep ops below the last summary, at least 1m; 0: for ever")
	c.Flags().Int64Var(&l.UploadBytes, "max-upload-bytes", d.UploadBytes, "largest summary upload or attachment, by its contents")
	c.Flags().Int64Var(&l.DocumentBytes, "max-document-bytes", d.DocumentBytes, "largest document, by the contents of its summary")
	c.Flags().Int64Var(&l.UploadsBytes, "max-uploads-bytes", 0, "request bodies of all uploads under way, half of it for one tenant; 0: 256 MiB, or twice the largest upload")
	c.Flags().IntVar(&l.ClientOps, "client-ops-per-second", d.ClientOps, "ops of one client")
	c.Flags().IntVar(&l.ClientSignals, "client-signals-per-second", d.ClientSignals, "signals of one client")
	c.Flags().IntVar(&l.TenantConnects, "tenant-connects-per-second", d.TenantConnects, "connections of one tenant; 0: no limit")
	c.Flags().IntVar(&l.TenantOps, "tenant-ops-per-second", d.TenantOps, "ops of one tenant; 0: no limit")
	c.Flags().IntVar(&l.TenantSignals, "tenant-signals-per-second", d.TenantSignals, "signals of one tenant; 0: no limit")
	c.Flags().IntVar(&l.TenantRequests, "tenant-requests-per-second", d.TenantRequests, "REST requests of one tenant; 0: no limit")
}

func (f *serveFlags) open(ctx context.Context, o *cli.Options) (*app.App, error) {
	config := f.config
	if config.Keys.Grace = f.grace; f.grace == 0 {
		config.Keys.Grace = -1 // there 0 is the default
	}
	if config.Keys.Hold = f.hold; f.hold == 0 {
		config.Keys.Hold = -1
	}
	switch days := f.config.Keys.DocumentKeyDays; {
	case days < 0:
		return nil, fmt.Errorf("--document-key-days %d is below 0", days)
	case days == 0:
		config.Keys.DocumentKeyDays = -1
	}
	config.DataDir = o.DataDir()
	config.Log = newLog(o.Err, f.level)
	app.Harden(config.Log)
	return app.Open(ctx, config)
}

// announceIdentities says how a workload finds the identity endpoint.
func announceIdentities(w io.Writer, server *app.App) {
	if url, secret := server.IdentityEndpoint(); url != "" {
		fmt.Fprintf(w, "tidelock: managed identities at %s: set IDENTITY_ENDPOINT to it, and IDENTITY_HEADER to what is in %s\n", url, secret)
	}
}

// announceLocal says what local mode opens.
func (f *serveFlags) announceLocal(w io.Writer) {
	if f.config.Local {
		fmt.Fprintf(w, "tidelock: local mode: tenant %q is open to whatever runs on this machine, web pages included: its tokens are not checked\n", app.LocalTenant)
	}
}

func newLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func versionCommand(o *cli.Options) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		version := "(development)"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			version = info.Main.Version
		}
		_, err := fmt.Fprintln(o.Out, "tidelock", version)
		return err
	}}
}

// banner is what quickstart prints. The last block can be pasted into a shell as
// it stands: it makes a folder, installs the client, creates a container and
// loads it again.
var banner = template.Must(template.New("banner").Parse(`
Tidelock is serving (ready in {{.Took}}). Stop it with Ctrl-C; run it again and everything is still there.

  relay URL        {{.Seeded.Endpoint}}
  tenant id        {{.Seeded.TenantID}}
  keys of tokens   tidelock relay keys{{.DataFlag}}
  management URL   {{.Profile.ManagementURL}}
  CA file          {{.Profile.CAFile}}
  data directory   {{.DataDir}}   (secrets are beside it, in {{.DataDir}}.keys)
  customer's key   {{.Seeded.KeyID}}

Turn the customer's key off and on again:

  tidelock keyvault key disable --vault {{.Seeded.Vault}} --name {{.Seeded.Key}}{{.DataFlag}}
  tidelock keyvault key enable  --vault {{.Seeded.Vault}} --name {{.Seeded.Key}}{{.DataFlag}}

('tidelock' is 'go run ./cmd/tidelock' in a checkout.) Try it from another shell in this folder, with Node.js 20 or later:

export TIDELOCK_KEY="$(go run ./cmd/tidelock relay keys{{.DataFlag}} --output json | grep -o '"key1": "[^"]*' | cut -d'"' -f4)"
mkdir -p tidelock-hello && cd tidelock-hello && npm init -y >/dev/null
npm install @fluidframework/azure-client@2 fluid-framework@2 jsonwebtoken@9
cat > hello.mjs <<'EOF'
globalThis.navigator ??= {}; // Node.js 20 has none
const { AzureClient } = await import("@fluidframework/azure-client");
const { default: jwt } = await import("jsonwebtoken");
const { SharedTree, SchemaFactory, TreeViewConfiguration } = await import("fluid-framework");

const user = { id: "ada", name: "Ada" };
// A real app asks its backend for the token: the key never goes to a browser.
const token = async (tenantId, documentId) => ({
  jwt: jwt.sign({ tenantId, documentId: documentId ?? "", scopes: ["doc:read", "doc:write", "summary:write"], user, ver: "1.0" },
    process.env.TIDELOCK_KEY, { expiresIn: 3600 }),
});
const client = new AzureClient({ connection: {
  type: "remote", endpoint: "{{.Seeded.Endpoint}}", tenantId: "{{.Seeded.TenantID}}",
  tokenProvider: { fetchOrdererToken: token, fetchStorageToken: token },
} });

const sf = new SchemaFactory("hello");
class Note extends sf.object("Note", { text: sf.string }) {}
const view = (c) => c.initialObjects.note.viewWith(new TreeViewConfiguration({ schema: Note }));
const schema = { initialObjects: { note: SharedTree } };
const { container } = await client.createContainer(schema, "2");
view(container).initialize(new Note({ text: "Hello from Tidelock" }));
const id = await container.attach();
const again = await client.getContainer(id, schema, "2");
console.log("container", id, "says:", view(again.container).root.text);
process.exit(0);
EOF
node hello.mjs

`))
