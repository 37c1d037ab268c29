package vault_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/vault"
)

// newInProcess is a cloud without a network, which fake time can run in.
func newInProcess(t testing.TB) testCloud {
	t.Helper()
	return newInProcessWith(t, func(*vault.Config) {})
}

func newInProcessWith(t testing.TB, change func(*vault.Config)) testCloud {
	t.Helper()
	c := testCloud{store: memory.New(), suffix: domain}
	service, keys := envelope.NewServiceKey(), rsatest.New()
	var err error
	c.entra, err = entra.Open(t.Context(), entra.Config{Store: c.store, Service: service, Login: "https://login.test", VaultSuffix: domain, GenerateRSA: keys})
	if err != nil {
		t.Fatal(err)
	}
	config := vault.Config{Store: c.store, Service: service, Entra: c.entra, Suffix: domain, Login: "https://login.test", GenerateRSA: keys}
	change(&config)
	c.vaults = vault.New(config)
	c.client = &http.Client{Transport: c.vaults.Transport()}
	if c.directory, err = c.entra.CreateDirectory(t.Context(), "contoso"); err != nil {
		t.Fatal(err)
	}
	if c.admin, err = c.entra.CreateManagedIdentity(t.Context(), c.directory, "/identities/admin"); err != nil {
		t.Fatal(err)
	}
	c.tokens = c.entra.Credential("/identities/admin")
	return c
}

func TestKeyAttributesFollowTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newInProcess(t)
		c.put(t, c.vault("contoso"))
		start := time.Now().Unix()
		token := c.token(t, "https://"+domain)
		c.must(t, "POST", "contoso", "/keys/k/create", token, `{"kty":"RSA","attributes":{"nbf":`+itoa(start+60)+`,"exp":`+itoa(start+120)+`}}`)
		wrap := func() int {
			return c.send(t, "POST", "contoso", "/keys/k/wrapkey", token, `{"alg":"RSA-OAEP-256","value":"AAAA"}`).StatusCode
		}
		if got := wrap(); got != 403 {
			t.Errorf("before nbf: got %d, want 403", got)
		}
		time.Sleep(60 * time.Second)
		if got := wrap(); got != 200 {
			t.Errorf("at nbf: got %d, want 200", got)
		}
		time.Sleep(59 * time.Second)
		if got := wrap(); got != 200 {
			t.Errorf("before exp: got %d, want 200", got)
		}
		time.Sleep(time.Second)
		if got := wrap(); got != 403 {
			t.Errorf("at exp: got %d, want 403", got)
		}
	})
}

func TestDeletedKeyIsPurgedAfterItsRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newInProcess(t)
		v := c.vault("contoso")
		v.SoftDeleteRetention, v.PurgeProtection = 7, true
		c.put(t, v)
		token := func() string { return c.token(t, "https://"+domain) }
		first := c.must(t, "POST", "contoso", "/keys/k/create", token(), `{"kty":"EC"}`)
		if got := first["attributes"].(map[string]any)["recoveryLevel"]; got != "CustomizedRecoverable" {
			t.Errorf("recovery level: got %v", got)
		}
		c.must(t, "DELETE", "contoso", "/keys/k", token(), "")
		time.Sleep(7*24*time.Hour - time.Minute)
		c.must(t, "GET", "contoso", "/deletedkeys/k", token(), "")
		if got := c.send(t, "POST", "contoso", "/keys/k/create", token(), `{"kty":"EC"}`).StatusCode; got != 409 {
			t.Errorf("create before the end of retention: got %d, want 409", got)
		}
		time.Sleep(time.Minute)
		if got := c.send(t, "POST", "contoso", "/deletedkeys/k/recover", token(), "").StatusCode; got != 404 {
			t.Errorf("recover after retention: got %d, want 404", got)
		}
		if got := len(c.must(t, "GET", "contoso", "/deletedkeys", token(), "")["value"].([]any)); got != 0 {
			t.Errorf("list after retention: got %d", got)
		}
		c.must(t, "POST", "contoso", "/keys/k/create", token(), `{"kty":"EC"}`)
		if got := len(c.must(t, "GET", "contoso", "/keys/k/versions", token(), "")["value"].([]any)); got != 1 {
			t.Errorf("versions of the new key: got %d, want 1", got)
		}
	})
}

// TestConcurrentWritesAllCount: new versions and changes of attributes that race
// are all there afterwards.
func TestConcurrentWritesAllCount(t *testing.T) {
	c := newInProcess(t)
	c.put(t, c.vault("contoso"))
	token := c.token(t, "https://"+domain)
	const n = 6
	var wg sync.WaitGroup
	statuses := make([]int, 2*n)
	for i := range n {
		wg.Go(func() {
			statuses[i] = post(c, token, "POST", "/keys/k/create", `{"kty":"EC"}`)
		})
	}
	wg.Wait()
	for i := range n {
		wg.Go(func() {
			statuses[n+i] = post(c, token, "PATCH", "/keys/k", `{"attributes":{"enabled":true}}`)
		})
	}
	wg.Wait()
	for i, got := range statuses {
		if got != 200 {
			t.Errorf("request %d: got %d, want 200", i, got)
		}
	}
	if got := len(c.must(t, "GET", "contoso", "/keys/k/versions", token, "")["value"].([]any)); got != n {
		t.Errorf("got %d versions, want %d", got, n)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func post(c testCloud, token, method, path, body string) int {
	r := httptest.NewRequest(method, "https://contoso."+domain+path+"?api-version=7.4", bytes.NewBufferString(body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	c.vaults.Handler().ServeHTTP(w, r)
	return w.Code
}

func BenchmarkUnwrap(b *testing.B) {
	c := newInProcess(b)
	if err := c.vaults.Put(b.Context(), c.vault("contoso")); err != nil {
		b.Fatal(err)
	}
	got, err := c.tokens.GetToken(b.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err != nil {
		b.Fatal(err)
	}
	if post(c, got.Token, "POST", "/keys/k/create", `{"kty":"RSA","key_size":3072}`) != 200 {
		b.Fatal("create failed")
	}
	for name, test := range map[string]struct {
		method, path, body string
		want               int
	}{
		"Get":    {"GET", "/keys/k", "", 200},
		"Wrap":   {"POST", "/keys/k/wrapkey", `{"alg":"RSA-OAEP-256","value":"AAAA"}`, 200},
		"Unwrap": {"POST", "/keys/k/unwrapkey", `{"alg":"RSA-OAEP-256","value":"` + string(bytes.Repeat([]byte("A"), 512)) + `"}`, 400},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if got := post(c, got.Token, test.method, test.path, test.body); got != test.want {
					b.Fatal(got)
				}
			}
		})
	}
}
