package vault_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// audited reads a vault's whole log.
func (c testCloud) audited(t *testing.T, named vault.Vault) []vault.AuditEvent {
	t.Helper()
	page, err := c.vaults.AuditEvents(t.Context(), named, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var all []vault.AuditEvent
	for _, raw := range page.Records {
		var e vault.AuditEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// Each request has one record, with the request id of its answer, and no secret.
func TestAuditLog(t *testing.T) {
	c := newCloud(t, io.Discard)
	v := c.vault("contoso")
	v.ResourceID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/contoso"
	c.put(t, v)
	token := c.token(t, "https://"+c.suffix)
	want := map[string]string{} // request id -> operation and result
	const value = "AAECAwQFBgcICQoLDA0ODw"
	for _, r := range []struct{ method, path, body, want string }{
		{"POST", "/keys/k/create", `{"kty":"RSA"}`, "KeyCreate Success OK"},
		{"GET", "/keys/k", "", "KeyGet Success OK"},
		{"POST", "/keys/k/wrapkey", `{"alg":"RSA-OAEP-256","value":"` + value + `"}`, "KeyWrap Success OK"},
		{"POST", "/keys/k/unwrapkey", `{"alg":"RSA-OAEP-256","value":"` + value + `"}`, "KeyUnwrap Failure Bad Request"},
		{"GET", "/keys/none", "", "KeyGet Failure Not Found"},
		{"PATCH", "/keys/k", `{}`, "KeyUpdate Success OK"},
		{"DELETE", "/keys/k", "", "KeyDelete Success OK"},
		{"POST", "/deletedkeys/k/recover", "", "KeyRecover Success OK"},
		{"GET", "/secrets/x", "", "Unknown Failure Bad Request"},
	} {
		resp := c.send(t, r.method, "contoso", r.path, token, r.body)
		want[resp.Header.Get("X-Ms-Request-Id")] = r.want
	}
	c.send(t, "GET", "contoso", "/keys", "", "") // how clients ask for a challenge: no record
	c.send(t, "GET", "contoso", "/keys", "forged", "")
	c.send(t, "GET", "contoso", "/keys", "forged", "")

	records := c.audited(t, v)
	for _, e := range records[:len(records)-1] {
		if got := e.OperationName + " " + e.ResultType + " " + e.ResultSignature; want[e.CorrelationID] != got {
			t.Errorf("request %s: got %s, want %s", e.CorrelationID, got, want[e.CorrelationID])
		}
		delete(want, e.CorrelationID)
		if e.Category != "AuditEvent" || e.ResourceID != strings.ToUpper(v.ResourceID) || e.OperationVersion != "7.4" || e.CallerIPAddress != "127.0.0.1" ||
			e.Identity.Claim == nil || e.Identity.Claim.ObjectID != c.admin.ObjectID || e.Identity.Claim.AppID != c.admin.ClientID || e.Properties.HTTPStatusCode == 0 ||
			!strings.HasPrefix(e.Properties.RequestURI, "https://contoso."+c.suffix+"/") {
			t.Errorf("got %+v", e)
		}
	}
	if len(want) != 0 {
		t.Errorf("without a record: %v", want)
	}
	if last := records[len(records)-1]; last.OperationName != "Authentication" || last.ResultSignature != "Unauthorized" || last.Identity.Claim != nil {
		t.Errorf("a forged token: got %+v", last)
	}
	page, err := c.vaults.AuditEvents(t.Context(), v, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range page.Records {
		if strings.Contains(string(raw), value) || strings.Contains(string(raw), token) {
			t.Errorf("a record shows a value or a token: %s", raw)
		}
	}
	if next, err := c.vaults.AuditEvents(t.Context(), v, 3, 2); err != nil || len(next.Records) != 2 || string(next.Records[0]) != string(page.Records[3]) {
		t.Errorf("a page: got %d records, %v", len(next.Records), err)
	}
}

// Whoever has no token cannot fill the log: refusals are a record a minute.
func TestAuditLogIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newInProcess(t)
		c.put(t, c.vault("contoso"))
		for range 50 {
			c.send(t, "GET", "contoso", "/keys", "forged", "")
		}
		time.Sleep(time.Minute)
		c.send(t, "GET", "contoso", "/keys", "forged", "")
		records := c.audited(t, c.vault("contoso"))
		if len(records) != 2 || !strings.Contains(records[1].ResultDescription, "and 49 refusals more") {
			t.Errorf("got %+v, want two records, the second with a count", records)
		}
	})
}

// failing is a store whose writes of rows fail while it is told so, with or without effect.
type failing struct {
	store.Store
	fail, persist atomic.Bool
}

func (f *failing) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if !f.fail.Load() {
		return f.Store.WriteRows(ctx, writes)
	}
	if f.persist.Load() {
		_ = f.Store.WriteRows(ctx, writes)
	}
	return errors.New("no space left on device")
}

// A store that fails stops no request; when it works again, all is there, once.
func TestAuditLogRidesOutAStoreThatFails(t *testing.T) {
	for name, persist := range map[string]bool{"Lost": false, "WrittenButReportedAsFailed": true} {
		t.Run(name, func(t *testing.T) {
			var faulty *failing
			c := newInProcessWith(t, func(config *vault.Config) {
				faulty = &failing{Store: config.Store}
				config.Store = faulty
			})
			c.put(t, c.vault("contoso"))
			token := c.token(t, "https://"+domain)
			get := func() string {
				resp := c.send(t, "GET", "contoso", "/keys", token, "")
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("got %d", resp.StatusCode)
				}
				return resp.Header.Get("X-Ms-Request-Id")
			}
			ids := []string{get()}
			faulty.persist.Store(persist)
			faulty.fail.Store(true)
			ids = append(ids, get(), get(), get())
			faulty.fail.Store(false)
			ids = append(ids, get())
			var got []string
			for _, e := range c.audited(t, c.vault("contoso")) {
				got = append(got, e.CorrelationID)
			}
			if strings.Join(got, " ") != strings.Join(ids, " ") {
				t.Errorf("got  %v\nwant %v", got, ids)
			}
		})
	}
}

func TestAuditLogOfManyAtOnce(t *testing.T) {
	c := newInProcess(t)
	c.put(t, c.vault("contoso"))
	token := c.token(t, "https://"+domain)
	const n = 200
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { post(c, token, "GET", "/keys", "") })
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range c.audited(t, c.vault("contoso")) {
		seen[e.CorrelationID] = true
	}
	if len(seen) != n {
		t.Errorf("got %d records of different requests, want %d", len(seen), n)
	}
}
