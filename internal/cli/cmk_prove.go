package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// proofReport is the answer of encryptionProof.
type proofReport struct {
	State     string         `json:"state"`
	Error     string         `json:"error"`
	Rows      int            `json:"rows"`
	Documents int            `json:"documents"`
	Headers   int            `json:"segmentHeaders"`
	Records   int            `json:"records"`
	Objects   int            `json:"objects"`
	Bytes     int64          `json:"sealedBytes"`
	KeyIDs    map[string]int `json:"documentsByKey"`
	Keys      int            `json:"documentKeys"`
	Older     int            `json:"underOlderDocumentKeys"`
	Loose     int            `json:"looseBlobs"`
	Shredded  int            `json:"shreddedValues"`
	Unproven  map[string]int `json:"unprovenDocuments"`
	Failed    int            `json:"failed"`
	Failures  []string       `json:"failures"`
}

func (o *Options) cmkProveCommand() *cobra.Command {
	return o.withOutput(&cobra.Command{Use: "prove", Short: "Open everything that is stored: every value must be sealed, authentic and in its place", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		return prove(c.Context(), client, p)
	}})
}

func prove(ctx context.Context, client *Client, p printer) error {
	provider := "/subscriptions/" + client.profile.SubscriptionID + "/providers/Microsoft.FluidRelay"
	err := client.Do(ctx, http.MethodPost, provider+"/proveEncryption", versionPreview, nil, nil)
	var refused *APIError
	if err != nil && (!errors.As(err, &refused) || refused.Code != "ProofRunning") {
		return err
	}
	for {
		var raw json.RawMessage
		if err := client.Do(ctx, http.MethodGet, provider+"/encryptionProof", versionPreview, nil, &raw); err != nil {
			return err
		}
		var r proofReport
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("proof: %w", err)
		}
		if r.State != "Running" {
			return r.print(p, raw)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (r proofReport) print(p printer, raw json.RawMessage) error {
	n := strconv.Itoa
	rows := [][]string{
		{"STATE", r.State}, {"ROWS", n(r.Rows)}, {"DOCUMENTS", n(r.Documents)}, {"SEGMENT HEADERS", n(r.Headers)}, {"RECORDS", n(r.Records)},
		{"OBJECTS", n(r.Objects)}, {"SEALED BYTES", strconv.FormatInt(r.Bytes, 10)}, {"LOOSE BLOBS", n(r.Loose)}, {"SHREDDED VALUES", n(r.Shredded)},
	}
	rows = append(rows, []string{"DOCUMENT KEYS", n(r.Keys)}, []string{"UNDER OLDER DOCUMENT KEYS", n(r.Older)})
	for _, kid := range slices.Sorted(maps.Keys(r.KeyIDs)) {
		rows = append(rows, []string{"UNDER KEY VERSION", fmt.Sprintf("%s (%d)", kid, r.KeyIDs[kid])})
	}
	for _, why := range slices.Sorted(maps.Keys(r.Unproven)) {
		rows = append(rows, []string{"NOT OPENED (" + why + ")", n(r.Unproven[why])})
	}
	for _, failure := range r.Failures {
		rows = append(rows, []string{"FAILURE", failure})
	}
	if err := p.print(raw, rows); err != nil {
		return err
	}
	switch r.State {
	case "Proven":
		return nil
	case "Failed":
		return fmt.Errorf("prove: %d values are not sealed as they must be", r.Failed)
	}
	if r.Error != "" {
		return errors.New("prove: the walk broke off: " + r.Error)
	}
	return errors.New("prove: some documents could not be opened, for their keys cannot be used now")
}
