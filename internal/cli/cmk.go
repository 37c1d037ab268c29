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

	"github.com/spf13/cobra"
)

func (o *Options) cmkCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "cmk", Short: "The customer-managed keys of relays"})
	parent.AddCommand(o.cmkStatusCommand(), o.cmkCheckCommand(), o.cmkHistoryCommand(), o.cmkImpactCommand(), o.cmkDrillCommand(), o.cmkVerifyCommand(), o.cmkWebhookCommand(), o.cmkProveCommand())
	return parent
}

// statusLines are the properties of a status, as the table calls them.
var statusLines = [][2]string{
	{"STATE", "state"},
	{"REASON", "reason"},
	{"FIX", "fix"},
	{"SINCE", "since"},
	{"LAST PROOF", "lastProofAt"},
	{"SERVED UNTIL", "servedUntil"},
	{"NEXT CHECK", "nextCheckAt"},
	{"KEY VERSION", "currentVersionedKeyIdentifier"},
	{"EXPIRES", "currentKeyExpiration"},
	{"WRAPPED", "lastKeyRotationTimestamp"},
	{"ROTATION", "rotationMode"},
	{"NEXT VERSION CHECK", "nextVersionCheckAt"},
	{"NEWER VERSION", "newerVersionAvailable"},
	{"GRACE ENDS", "graceDeadline"},
	{"ENFORCED", "enforcedAt"},
	{"RECOVERABLE UNTIL", "recoverableUntil"},
	{"RESOURCE", "resource"},
}

func (o *Options) cmkStatusCommand() *cobra.Command {
	return o.onRelay("status", "Show whether a relay's key can be used, why not, and what helps", func(ctx context.Context, client *Client, path string, p printer) error {
		var raw json.RawMessage
		if err := client.Do(ctx, http.MethodGet, path+"/encryptionStatus", versionPreview, nil, &raw); err != nil {
			return err
		}
		var answer struct {
			Properties map[string]any `json:"properties"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("status: %w", err)
		}
		var rows [][]string
		for _, line := range statusLines {
			if value, ok := answer.Properties[line[1]].(string); ok {
				rows = append(rows, []string{line[0], value})
			}
		}
		return p.print(raw, append(rows, statusLists(answer.Properties)...))
	})
}

// statusLists are the lines of what a status has several of.
func statusLists(properties map[string]any) (rows [][]string) {
	each := func(list string, line func(text func(string) string, is func(string) bool) []string) {
		all, _ := properties[list].([]any)
		for _, one := range all {
			members, _ := one.(map[string]any)
			text := func(name string) string { s, _ := members[name].(string); return s }
			is := func(name string) bool { b, _ := members[name].(bool); return b }
			rows = append(rows, line(text, is))
		}
	}
	if missing, _ := properties["missingPermissions"].([]any); len(missing) > 0 {
		rows = append(rows, []string{"MISSING PERMISSIONS", strings.Trim(fmt.Sprint(missing...), "[]")})
	}
	each("warnings", func(text func(string) string, _ func(string) bool) []string {
		return []string{"WARNING", text("code") + ": " + text("message")}
	})
	each("previousVersions", func(text func(string) string, is func(string) bool) []string {
		safe := "not safe to disable: " + text("why")
		if is("safeToDisable") {
			safe = "safe to disable (backups from before " + text("replacedAt") + " need it)"
		}
		return []string{"PREVIOUS VERSION", text("keyIdentifier") + " " + safe}
	})
	return rows
}

// cmkCheck is the answer of checkEncryption.
type cmkCheck struct {
	Usable   bool       `json:"usable"`
	Problems []APIError `json:"problems"`
}

func (o *Options) cmkCheckCommand() *cobra.Command {
	var keyURL, identity string
	c := o.onRelay("check", "Check a relay's key, or another one for it, as an update would; change nothing", func(ctx context.Context, client *Client, path string, p printer) error {
		var answer cmkCheck
		if err := client.Do(ctx, http.MethodPost, path+"/checkEncryption", versionPreview, checkBody(keyURL, identity), &answer); err != nil {
			return err
		}
		rows := [][]string{{"PROBLEM", "WHERE", "WHAT"}}
		for _, each := range answer.Problems {
			rows = append(rows, []string{each.Code, each.Target, each.Message})
		}
		if answer.Usable {
			rows = [][]string{{"The key can be used."}}
		}
		if err := p.print(answer, rows); err != nil {
			return err
		}
		if n := len(answer.Problems); n > 0 {
			return fmt.Errorf("the key cannot be used; failed checks: %d", n)
		}
		return nil
	})
	c.Flags().StringVar(&keyURL, "key-url", "", "check this key URL (default: the relay's)")
	c.Flags().StringVar(&identity, "key-identity", "", "check as this user-assigned identity, by resource id (default: the relay's)")
	return c
}

// checkBody is the PATCH that would set these, nil if neither is given.
func checkBody(keyURL, identity string) any {
	if keyURL == "" && identity == "" {
		return nil
	}
	cmk, body := map[string]any{}, map[string]any{}
	if keyURL != "" {
		cmk["keyEncryptionKeyUrl"] = keyURL
	}
	if identity != "" {
		cmk["keyEncryptionKeyIdentity"] = map[string]string{"identityType": "UserAssigned", "userAssignedIdentityResourceId": identity}
		body["identity"] = map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{identity: struct{}{}}}
	}
	body["properties"] = map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": cmk}}
	return body
}

type cmkWrap struct {
	Generation uint64 `json:"generation"`
	InForce    bool   `json:"inForce"`
	KeyID      string `json:"keyIdentifier"`
	Identity   string `json:"userAssignedIdentityResourceId"`
	Created    string `json:"createdAt"`
	RequestID  string `json:"vaultRequestId"`
}

func (o *Options) cmkHistoryCommand() *cobra.Command {
	return o.onRelay("history", "Show which key versions wrapped a relay's root key, and when", func(ctx context.Context, client *Client, path string, p printer) error {
		all, err := list(ctx, client, path+"/encryptionHistory", versionPreview)
		if err != nil {
			return err
		}
		rows := [][]string{{"GENERATION", "IN FORCE", "CREATED", "KEY VERSION", "VAULT REQUEST"}}
		for _, raw := range all {
			var w cmkWrap
			if err := json.Unmarshal(raw, &w); err != nil {
				return fmt.Errorf("history: %w", err)
			}
			rows = append(rows, []string{strconv.FormatUint(w.Generation, 10), strconv.FormatBool(w.InForce), w.Created, w.KeyID, w.RequestID})
		}
		return p.print(all, rows)
	})
}

// list reads a whole collection, page by page.
func list(ctx context.Context, client *Client, path, apiVersion string) ([]json.RawMessage, error) {
	all := []json.RawMessage{}
	for token := ""; ; {
		var page struct {
			Value    []json.RawMessage `json:"value"`
			NextLink string            `json:"nextLink"`
		}
		if err := client.Do(ctx, http.MethodGet, path, apiVersion+token, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Value...)
		next, err := skipToken(page.NextLink)
		if err != nil || next == "" {
			return all, err
		}
		token = "&$skipToken=" + next
	}
}

// skipToken takes a nextLink's token, empty if there is none. The link itself is not
// followed: a token of the caller's goes nowhere but to the server of the profile.
func skipToken(nextLink string) (string, error) {
	if nextLink == "" {
		return "", nil
	}
	u, err := url.Parse(nextLink)
	if err != nil {
		return "", fmt.Errorf("the link to the next page: %w", err)
	}
	token := u.Query().Get("$skipToken")
	if token == "" {
		return "", errors.New("the link to the next page has no $skipToken")
	}
	return url.QueryEscape(token), nil
}
