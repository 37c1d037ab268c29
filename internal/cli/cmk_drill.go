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

func (o *Options) cmkImpactCommand() *cobra.Command {
	var version string
	c := o.withOutput(&cobra.Command{Use: "impact", Short: "Show what would stop if a key version were disabled", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		path := "/subscriptions/" + client.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/keyImpact"
		all, err := list(c.Context(), client, path, versionPreview+"&keyVersion="+url.QueryEscape(version))
		if err != nil {
			return err
		}
		rows := [][]string{{"RELAY", "EFFECT", "WHY"}}
		for _, raw := range all {
			var w struct {
				ID     string `json:"id"`
				Effect string `json:"effect"`
				Why    string `json:"why"`
			}
			if err := json.Unmarshal(raw, &w); err != nil {
				return fmt.Errorf("impact: %w", err)
			}
			rows = append(rows, []string{w.ID, w.Effect, w.Why})
		}
		if len(all) == 0 {
			rows = [][]string{{"Nothing is under this key version. Backups from when something was need it to be restored."}}
		}
		return p.print(all, rows)
	}})
	c.Flags().StringVar(&version, "version", "", "the key version: 32 hexadecimal digits, or a key identifier that ends in them")
	_ = c.MarkFlagRequired("version")
	return c
}

func (o *Options) cmkWebhookCommand() *cobra.Command {
	var regenerate bool
	c := o.withOutput(&cobra.Command{Use: "webhook", Short: "Show the secret URL to which Event Grid is to send the events of key vaults", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		var answer struct {
			URL    string   `json:"endpointUrl"`
			Events []string `json:"includedEventTypes"`
			Until  string   `json:"formerEndpointUrlUsableUntil,omitempty"`
		}
		verb := "listKeyEventWebhook"
		if regenerate {
			verb = "regenerateKeyEventWebhook"
		}
		path := "/subscriptions/" + client.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/" + verb
		if err := client.Do(c.Context(), http.MethodPost, path, versionPreview, nil, &answer); err != nil {
			return err
		}
		rows := [][]string{{"URL", answer.URL}, {"EVENTS", strings.Join(answer.Events, " ")}}
		if answer.Until != "" {
			rows = append(rows, []string{"FORMER URL WORKS UNTIL", answer.Until})
		}
		return p.print(answer, rows)
	}})
	c.Flags().BoolVar(&regenerate, "regenerate", false, "replace the secret in the URL; the former one works for 24 hours more, or until the next time")
	return c
}

// drillReport is the answer of encryptionDrill.
type drillReport struct {
	Relay          string   `json:"relay"`
	State          string   `json:"state"`
	Failure        string   `json:"failure"`
	Key            string   `json:"keyIdentifier"`
	Started        string   `json:"startedAt"`
	Refusal        string   `json:"firstRefusalAt"`
	Enforced       string   `json:"enforcedAt"`
	Permitted      string   `json:"permittedAt"`
	Recovered      string   `json:"recoveredAt"`
	EnforceSeconds *float64 `json:"secondsToEnforce"`
	RecoverSeconds *float64 `json:"secondsToRecover"`
	Kept           bool     `json:"promiseKept"`
	Documents      int      `json:"documentsEnded"`
	Node           string   `json:"node"`
	Others         []string `json:"nodesNotCovered"`
	Signed         string   `json:"signedReport"`
}

// drillPatience is how long a drill may take beyond its hold.
const drillPatience = 4 * time.Minute

func (o *Options) cmkDrillCommand() *cobra.Command {
	hold := 30 * time.Second
	c := o.onRelay("drill", "Rehearse the loss of a relay's key: it stops, comes back, and both are measured", func(ctx context.Context, client *Client, path string, p printer) error {
		ctx, cancel := context.WithTimeout(ctx, hold+drillPatience)
		defer cancel()
		body := map[string]int{"holdSeconds": int(hold / time.Second)}
		if err := client.Do(ctx, http.MethodPost, path+"/drillEncryption", versionPreview, body, nil); err != nil {
			return err
		}
		for {
			var raw json.RawMessage
			if err := client.Do(ctx, http.MethodGet, path+"/encryptionDrill", versionPreview, nil, &raw); err != nil {
				return err
			}
			var report drillReport
			if err := json.Unmarshal(raw, &report); err != nil {
				return fmt.Errorf("drill: %w", err)
			}
			if report.State != "Running" {
				return report.print(p, raw)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the drill has not ended (it does by itself; see tidelock cmk status): %w", ctx.Err())
			case <-time.After(time.Second):
			}
		}
	})
	c.Flags().DurationVar(&hold, "hold", hold, "how long the refusal lasts once nothing is served any more; up to 10m")
	return c
}

func (r drillReport) print(p printer, raw json.RawMessage) error {
	err := p.print(raw, r.rows())
	switch {
	case err != nil:
		return err
	case r.Failure != "":
		return errors.New("the drill failed: " + r.Failure)
	case !r.Kept:
		return errors.New("the promise was not kept")
	}
	return nil
}

func (r drillReport) rows() [][]string {
	seconds := func(s *float64) string {
		if s == nil {
			return "never"
		}
		return strconv.FormatFloat(*s, 'f', 1, 64) + " s"
	}
	rows := [][]string{
		{"STATE", r.State}, {"RELAY", r.Relay}, {"KEY VERSION", r.Key}, {"STARTED", r.Started}, {"FIRST REFUSAL", r.Refusal},
		{"ENFORCED", r.Enforced + " after " + seconds(r.EnforceSeconds) + " (promised: 60 s)"}, {"PERMITTED", r.Permitted},
		{"RECOVERED", r.Recovered + " after " + seconds(r.RecoverSeconds) + " (promised: 30 s)"}, {"DOCUMENTS ENDED", strconv.Itoa(r.Documents)},
	}
	if r.Node != "" {
		rows = append(rows, []string{"NODE", r.Node})
	}
	for _, url := range r.Others {
		rows = append(rows, []string{"NOT COVERED", url + " served the relay on: run the drill there, too"})
	}
	return rows
}
