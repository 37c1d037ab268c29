package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/internal/bench"
)

func (o *Options) benchCommand() *cobra.Command {
	var (
		config  bench.Config
		keyFile string
	)
	c := o.withOutput(&cobra.Command{
		Use:   "bench",
		Short: "Drive a Fluid service with load over the real protocol, and report",
		Long: "Makes documents, connects writers and readers to each, and has the writers submit ops: each when it has\n" +
			"seen an earlier one sequenced (the default), or at a fixed rate of all together. Without --endpoint it drives the\n" +
			"quickstart relay of this machine. With --tenant local it drives local mode ('tidelock serve --local') or a\n" +
			"Tinylicious, by default at " + localEndpoint + "; those need no --key-file.",
		Args: cobra.NoArgs,
	})
	c.RunE = func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		if config.Endpoint.Key, err = tenantKey(keyFile); err != nil {
			return err
		}
		switch {
		case config.Endpoint.URL != "":
		case c.Flags().Changed("tenant"):
			config.Endpoint.URL = localEndpoint
		default:
			if config.Endpoint, err = o.quickstartEndpoint(c); err != nil {
				return err
			}
			profile, err := o.ProfilePath(o.dataDir)
			if err != nil {
				return err
			}
			config.Directory = filepath.Dir(profile)
		}
		report, err := bench.Run(c.Context(), config, o.Err)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		if p.json {
			return p.print(report, nil)
		}
		return report.WriteText(o.Out)
	}
	c.Flags().StringVar(&config.Endpoint.URL, "endpoint", "", "URL of the service (default: the quickstart relay; with --tenant, "+localEndpoint+")")
	c.Flags().StringVar(&config.Endpoint.Tenant, "tenant", "local", "tenant id at --endpoint")
	c.Flags().StringVar(&keyFile, "key-file", "", "file with the tenant's key")
	c.Flags().IntVar(&config.Documents, "documents", 1, "how many documents")
	c.Flags().IntVar(&config.Writers, "writers", 1, "writers of each document; 0: the readers idle")
	c.Flags().IntVar(&config.Readers, "readers", 0, "readers of each document")
	c.Flags().IntVar(&config.OpBytes, "op-bytes", 200, "size of an op's contents")
	c.Flags().DurationVar(&config.Duration, "duration", 10*time.Second, "how long to measure; 0 with --ops")
	c.Flags().IntVar(&config.Ops, "ops", 0, "how many ops in all, instead of a duration")
	c.Flags().Float64Var(&config.Rate, "rate", 0, "ops per second of all writers together (default: closed loop)")
	c.Flags().IntVar(&config.InFlight, "in-flight", 1, "ops that each writer has under way in the closed loop")
	c.Flags().BoolVar(&config.HoldMSN, "hold-msn", false, "writers stay at the reference sequence number that they began with, as one who lags behind does")
	c.Flags().IntVar(&config.ServerPID, "server-pid", 0, "the service's process on this machine: report its CPU and memory")
	return c
}

// localEndpoint is where a relay in local mode listens, and a Tinylicious, unless told
// otherwise.
const localEndpoint = "http://127.0.0.1:7070"

// tenantKey reads a key from a file: on the command line others would see it.
func tenantKey(file string) (string, error) {
	if file == "" {
		return "not-checked", nil // in local mode
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the tenant's key: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// quickstartEndpoint asks the management plane for the quickstart relay.
func (o *Options) quickstartEndpoint(c *cobra.Command) (bench.Endpoint, error) {
	client, err := o.connect()
	if err != nil {
		return bench.Endpoint{}, err
	}
	path := client.relayPath(relayFlags{name: seedRelay, group: seedGroup})
	var relay relayServer
	if err := client.Do(c.Context(), "GET", path, versionFluidRelay, nil, &relay); err != nil {
		return bench.Endpoint{}, err
	}
	var keys struct {
		Key1 string `json:"key1"`
	}
	if err := client.Do(c.Context(), "POST", path+"/listKeys", versionFluidRelay, nil, &keys); err != nil {
		return bench.Endpoint{}, err
	}
	return bench.Endpoint{URL: relay.endpoint(), Tenant: relay.Properties.TenantID, Key: keys.Key1}, nil
}
