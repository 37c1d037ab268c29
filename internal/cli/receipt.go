package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// receipt is what the command line reads of a deletion's receipt.
type receipt struct {
	Of        string     `json:"of"`
	Name      string     `json:"name"`
	KeyID     string     `json:"keyId"`
	Epoch     uint32     `json:"epoch"`
	KEK       string     `json:"kid"`
	At        time.Time  `json:"destroyedAt"`
	OldCopies *time.Time `json:"oldCopiesOpenUntil"`
	Final     bool       `json:"final"`
}

func (o *Options) receiptCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "receipt", Short: "Receipts of deleted containers and relays"})
	parent.AddCommand(&cobra.Command{Use: "list", Short: "List what was destroyed, and until when old copies of it can be opened", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		path := "/subscriptions/" + client.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/deletionReceipts"
		all, err := client.List(c.Context(), path, versionPreview)
		if err != nil {
			return fmt.Errorf("list receipts: %w", err)
		}
		return printReceipts(p, all, all...)
	}})
	return parent
}

// deleteWithReceipt deletes what is at path and prints the receipt.
func deleteWithReceipt(ctx context.Context, client *Client, path string, p printer) error {
	var raw json.RawMessage
	if err := client.Do(ctx, http.MethodDelete, path, versionPreview, nil, &raw); err != nil {
		return err
	}
	if len(raw) == 0 {
		return errors.New("it was deleted by somebody else meanwhile")
	}
	return printReceipts(p, raw, raw)
}

// printReceipts prints value as JSON, or its receipts as a table.
func printReceipts(p printer, value any, receipts ...json.RawMessage) error {
	rows := [][]string{{"DESTROYED", "KEY OF", "NAME", "KEY ID", "EPOCH", "UNDER", "OLD COPIES OPEN UNTIL"}}
	for _, raw := range receipts {
		var r receipt
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		until := "no limit"
		if r.OldCopies != nil {
			until = r.OldCopies.Format(time.RFC3339)
			if !r.Final {
				until += " (planned)"
			}
		}
		rows = append(rows, []string{r.At.Format(time.RFC3339), r.Of, r.Name, r.KeyID, fmt.Sprint(r.Epoch), r.KEK, until})
	}
	return p.print(value, rows)
}
