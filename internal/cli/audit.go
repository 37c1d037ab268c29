package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// keyUse is what the command line reads of a record of the log of key uses.
type keyUse struct {
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"`
	Op        string    `json:"op"`
	Reason    string    `json:"reason"`
	KeyID     string    `json:"kid"`
	Identity  string    `json:"identity"`
	Outcome   string    `json:"outcome"`
	Code      string    `json:"code"`
	RequestID string    `json:"requestId"`
	Count     uint64    `json:"count"`
	Lost      uint64    `json:"lost"`
	Prev      string    `json:"prev"`
}

// keyUses is the whole log.
type keyUses struct {
	Records []json.RawMessage `json:"records"`
	First   uint64            `json:"first"`
	Last    uint64            `json:"last"`
	Hash    string            `json:"hash"`
}

func (o *Options) auditCommand() *cobra.Command {
	return o.withOutput(&cobra.Command{Use: "audit", Short: "List every use of the customer-managed keys, and verify that the list is whole", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		log, err := readKeyUses(c.Context(), client)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		uses, broken := log.verify()
		rows := [][]string{{"SEQ", "TIME", "OP", "REASON", "OUTCOME", "USES", "KEY VERSION", "IDENTITY", "VAULT REQUEST"}}
		for _, u := range uses {
			outcome := u.Outcome
			if u.Code != "" {
				outcome += " (" + u.Code + ")"
			}
			rows = append(rows, []string{
				strconv.FormatUint(u.Seq, 10), u.Time.Format(time.RFC3339), u.Op, u.Reason, outcome,
				strconv.FormatUint(max(u.Count, 1), 10), u.KeyID, u.Identity, u.RequestID,
			})
		}
		if err := p.print(log, rows); err != nil {
			return err
		}
		if broken != nil {
			return fmt.Errorf("audit: the log is not whole: %w", broken)
		}
		return nil
	}})
}

// readKeyUses reads the log, page by page. The first answer says where it ends; what is
// written meanwhile is left out.
func readKeyUses(ctx context.Context, client *Client) (keyUses, error) {
	log := keyUses{Records: []json.RawMessage{}}
	path := "/subscriptions/" + client.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/keyUses"
	for query := versionPreview; ; {
		var page struct {
			keyUses
			Value    []json.RawMessage `json:"value"`
			NextLink string            `json:"nextLink"`
		}
		if err := client.Do(ctx, http.MethodGet, path, query, nil, &page); err != nil {
			return log, err
		}
		if len(log.Records) == 0 {
			log.First, log.Last, log.Hash = page.First, page.Last, page.Hash
		}
		log.Records = append(log.Records, page.Value...)
		token, err := skipToken(page.NextLink)
		if err != nil {
			return log, err
		}
		if want := log.Last + 1 - log.First; token == "" || uint64(len(log.Records)) >= want {
			log.Records = log.Records[:min(uint64(len(log.Records)), want)]
			return log, nil
		}
		query = versionPreview + "&$skipToken=" + token
	}
}

// verify checks that each record carries the hash of the one before, that none is
// missing, and that the last is the one the log ends with. It returns all that decode.
func (l keyUses) verify() ([]keyUse, error) {
	var uses []keyUse
	var broken []error
	prev := ""
	for n, raw := range l.Records {
		var u keyUse
		if err := json.Unmarshal(raw, &u); err != nil {
			broken = append(broken, fmt.Errorf("record %d does not decode: %w", n, err))
			continue
		}
		switch {
		case u.Seq != l.First+uint64(n):
			broken = append(broken, fmt.Errorf("record %d stands in the place of %d", u.Seq, l.First+uint64(n)))
		case n > 0 && u.Prev != prev:
			broken = append(broken, fmt.Errorf("record %d does not follow the one before it", u.Seq))
		}
		if u.Lost > 0 {
			broken = append(broken, fmt.Errorf("before record %d the store did not take %d uses", u.Seq, u.Lost))
		}
		prev = hashOf(raw)
		uses = append(uses, u)
	}
	if got, want := uint64(len(l.Records)), l.Last+1-l.First; got != want {
		broken = append(broken, fmt.Errorf("there are %d records of %d", got, want))
	} else if got > 0 && prev != l.Hash {
		broken = append(broken, errors.New("the last record is not the one that the log ends with"))
	}
	return uses, errors.Join(broken...)
}

// hashOf is over the compact JSON, which is how records are stored.
func hashOf(raw []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil {
		return ""
	}
	sum := sha256.Sum256(compact.Bytes())
	return hex.EncodeToString(sum[:])
}
