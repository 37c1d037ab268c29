package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"
)

// serviceKeyState is the answer of serviceKey and rotateServiceKey.
type serviceKeyState struct {
	State    string `json:"state"`
	Left     int    `json:"underOlderVersions"`
	Versions []struct {
		Number uint32 `json:"number"`
		ID     string `json:"id"`
		State  string `json:"state"`
		Since  string `json:"sealingSince"`
		Until  string `json:"keptUntil"`
	} `json:"versions"`
}

func (o *Options) serviceKeyCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "service-key", Short: "The installation's own key: it seals management data, and root keys of relays without a customer's key"})
	parent.AddCommand(&cobra.Command{Use: "status", Short: "Which version seals, and which ones are still needed", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return o.serviceKey(c, http.MethodGet, "serviceKey")
	}}, &cobra.Command{
		Use: "rotate", Short: "Make a new version and have everything sealed under it", Args: cobra.NoArgs,
		Long: "Makes a new version of the key in DATA.keys/service.key. From then on it seals; what is sealed under older\n" +
			"versions is sealed anew in the background. An older version stays in the file, so that copies of the data from\n" +
			"before can be restored, and is destroyed after --key-retention-days. Make a backup of the file at once: the one\n" +
			"from before does not open what is written from now on. On several nodes the new version must be in the file of\n" +
			"each first; this says what to copy.",
		RunE: func(c *cobra.Command, _ []string) error {
			err := o.serviceKey(c, http.MethodPost, "rotateServiceKey")
			var refused *APIError
			if errors.As(err, &refused) && refused.Code == "ServiceKeyNotOnAllNodes" {
				return Hint(err, "copy DATA.keys/service.key of the node that --data names to the others, wait a minute, then run this again")
			}
			if err == nil && o.output != "json" {
				fmt.Fprintln(o.Out, "Make a backup of the service key now: one from before does not open what is written from now on.")
			}
			return err
		},
	})
	return parent
}

func (o *Options) serviceKey(c *cobra.Command, method, path string) error {
	p, client, err := o.ready()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := client.Do(c.Context(), method, "/subscriptions/"+client.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/"+path, versionPreview, nil, &raw); err != nil {
		return err
	}
	var s serviceKeyState
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("service key: %w", err)
	}
	rows := [][]string{{"VERSION", "ID", "STATE", "SEALING SINCE", "KEPT UNTIL"}}
	for _, v := range s.Versions {
		rows = append(rows, []string{strconv.FormatUint(uint64(v.Number), 10), v.ID, v.State, v.Since, v.Until})
	}
	if s.State != "Current" {
		rows = append(rows, []string{"values are being sealed anew"})
	}
	return p.print(raw, rows)
}
