package main

import (
	"fmt"
	"log/slog"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/proxy"
)

func proxyCommand(o *cli.Options) *cobra.Command {
	var listen string
	var others bool
	level := slog.LevelWarn
	c := &cobra.Command{
		Use:   "proxy",
		Short: "Lead clients of the public cloud's names to this server",
		Long: "Serves an HTTP proxy that leads connections for management.azure.com, login.microsoftonline.com,\n" +
			"graph.microsoft.com, *.vault.azure.net and *.managedhsm.azure.net to the server of --data, and refuses\n" +
			"all others. Programs that are told of it by the environment variables that it prints, and only those, then\n" +
			"work against Tidelock as they are written for Azure. On its first run it makes a certificate authority that\n" +
			"can speak for these names and no others.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := app.ProfilePath(o.DataDir())
			if err != nil {
				return err
			}
			if _, err := cli.LoadProfile(path); err != nil {
				return err
			}
			roots, err := app.PublicRoots(o.DataDir())
			if err != nil {
				return err
			}
			l, err := app.ListenOnLoopback(c.Context(), listen, "--listen")
			if err != nil {
				return err
			}
			log := newLog(o.Err, level)
			// The profile is read for each tunnel: the server may come back at another address.
			route := func(host, port string) (string, bool) {
				profile, err := cli.LoadProfile(path)
				if err != nil {
					log.ErrorContext(c.Context(), "no way to the server", slog.Any("err", err))
					return "", false
				}
				u, err := url.Parse(profile.ManagementURL)
				if err != nil {
					return "", false
				}
				return app.ProxyRoute(u.Host, others)(host, port)
			}
			fmt.Fprintf(o.Out, "export HTTPS_PROXY=http://%s\nexport SSL_CERT_FILE=%s REQUESTS_CA_BUNDLE=%s NODE_EXTRA_CA_CERTS=%s\n", l.Addr(), roots, roots, roots)
			return proxy.New(proxy.Config{Route: route, Log: log}).Serve(c.Context(), l)
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8444", "address of the proxy, on loopback")
	c.Flags().BoolVar(&others, "pass-others", false, "lead connections for other names to where they are meant for, instead of refusing them")
	c.Flags().TextVar(&level, "log-level", slog.LevelWarn, "debug, info, warn or error")
	return c
}
