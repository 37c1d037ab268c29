package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// auditEvent is what the command line shows of a vault's audit record.
type auditEvent struct {
	Time      time.Time `json:"time"`
	Resource  string    `json:"resourceId"`
	Operation string    `json:"operationName"`
	Signature string    `json:"resultSignature"`
	Caller    string    `json:"callerIpAddress"`
	RequestID string    `json:"correlationId"`
	Identity  struct {
		Claim struct {
			ObjectID string `json:"http://schemas.microsoft.com/identity/claims/objectidentifier"`
		} `json:"claim"`
	} `json:"identity"`
	Properties struct {
		ID     string `json:"id"`
		Status int    `json:"httpStatusCode"`
	} `json:"properties"`
}

func (o *Options) keyvaultLogCommand() *cobra.Command {
	var f keyFlags
	var dir string
	c := o.withOutput(&cobra.Command{Use: "log", Short: "Show who asked a vault for what, or export it as JSON lines", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		records, lost, err := client.vaultLog(c.Context(), f)
		if err != nil {
			return fmt.Errorf("audit log of %s: %w", f.vault+f.hsm, err)
		}
		if dir != "" {
			n, err := exportLog(dir, records)
			if err != nil {
				return fmt.Errorf("export the audit log: %w", err)
			}
			fmt.Fprintf(o.Out, "%d records in %d files below %s\n", len(records), n, dir)
		} else if err := printLog(p, records); err != nil {
			return err
		}
		if lost > 0 {
			return fmt.Errorf("audit log of %s: %d records are missing that the store did not take; the server's log says when", f.vault+f.hsm, lost)
		}
		return nil
	}})
	f.register(c)
	c.Flags().StringVar(&dir, "export", "", "directory to write the records to, in the layout of Azure's diagnostic logs")
	return c
}

func printLog(p printer, records []json.RawMessage) error {
	rows := [][]string{{"TIME", "OPERATION", "STATUS", "ID", "OBJECT ID", "ADDRESS", "REQUEST"}}
	for _, raw := range records {
		var e auditEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("audit record: %w", err)
		}
		rows = append(rows, []string{
			e.Time.Format(time.RFC3339), e.Operation, strconv.Itoa(e.Properties.Status), e.Properties.ID, e.Identity.Claim.ObjectID, e.Caller, e.RequestID,
		})
	}
	return p.print(records, rows)
}

// vaultLog reads the whole audit log of a vault, wherever in the subscription it is.
func (c *Client) vaultLog(ctx context.Context, f keyFlags) (records []json.RawMessage, lost uint64, err error) {
	kind, name := "vaults", f.vault
	if f.hsm != "" {
		kind, name = "managedHSMs", f.hsm
	}
	var all struct {
		Value []struct{ ID, Name string }
	}
	if err := c.Do(ctx, http.MethodGet, "/subscriptions/"+c.profile.SubscriptionID+"/providers/Microsoft.KeyVault/"+kind, versionVaults, nil, &all); err != nil {
		return nil, 0, err
	}
	records = []json.RawMessage{}
	for _, v := range all.Value {
		if !strings.EqualFold(v.Name, name) {
			continue
		}
		for query := versionVaults; ; {
			var page struct {
				Value    []json.RawMessage `json:"value"`
				NextLink string            `json:"nextLink"`
				Lost     uint64            `json:"lost"`
			}
			if err := c.Do(ctx, http.MethodGet, v.ID+"/auditEvents", query, nil, &page); err != nil {
				return nil, 0, err
			}
			records = append(records, page.Value...)
			token, err := skipToken(page.NextLink)
			if err != nil || token == "" {
				return records, page.Lost, err
			}
			query = versionVaults + "&$skipToken=" + token
		}
	}
	return nil, 0, fmt.Errorf("there is none of this name in %s of the subscription", kind)
}

// exportLog writes records as Azure's diagnostic settings do: a file of JSON lines for
// each hour. It returns how many files there are.
func exportLog(dir string, records []json.RawMessage) (files int, err error) {
	hours := map[string][]byte{}
	for _, raw := range records {
		var e auditEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			return 0, err
		}
		t := e.Time.UTC()
		path := filepath.Join(dir, "insights-logs-auditevent", "resourceId="+filepath.FromSlash(filepath.Clean("/"+e.Resource)),
			fmt.Sprintf("y=%04d/m=%02d/d=%02d/h=%02d/m=00/PT1H.json", t.Year(), t.Month(), t.Day(), t.Hour()))
		hours[path] = append(append(hours[path], raw...), '\n')
	}
	for path, lines := range hours {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return 0, err
		}
		if err := os.WriteFile(path, lines, 0o600); err != nil {
			return 0, err
		}
	}
	return len(hours), nil
}
