package app

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// sendEvents posts to the webhook.
func (w *world) sendEvents(method, url, body string, header http.Header) reply {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = header
	resp, err := w.client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 4096)
	n, _ := resp.Body.Read(b)
	return reply{resp.StatusCode, resp.Header, b[:n]}
}

// The webhook's secret is replaced, and the one before works for a day, unless it is replaced
// again.
func TestKeyEventWebhookIsRegenerated(t *testing.T) {
	scenario(t, func(w *world) {
		type webhook struct {
			URL   string    `json:"endpointUrl"`
			Until time.Time `json:"formerEndpointUrlUsableUntil"`
		}
		ask := func(verb string) (hook webhook) {
			t.Helper()
			w.decode(w.want(200, w.arm("POST", "/subscriptions/"+w.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/"+verb, preview, nil)), &hook)
			return hook
		}
		takes := func(when string, want map[string]int) {
			t.Helper()
			for url, status := range want {
				if got := w.sendEvents("POST", url, "[]", http.Header{"Content-Type": {"application/json"}}); got.status != status {
					t.Errorf("%s: %s is answered with %d, want %d", when, url, got.status, status)
				}
			}
		}
		first := ask("listKeyEventWebhook")
		second := ask("regenerateKeyEventWebhook")
		if second.URL == first.URL || !second.Until.After(time.Now().Add(23*time.Hour)) || !first.Until.IsZero() {
			t.Errorf("%+v after %+v, want another URL, and until when that works", second, first)
		}
		takes("both", map[string]int{first.URL: 200, second.URL: 200})
		w.pause(time.Hour)
		if again := ask("listKeyEventWebhook"); again != second {
			t.Errorf("after a restart: %+v, want %+v", again, second)
		}
		takes("after a restart", map[string]int{first.URL: 200, second.URL: 200})
		time.Sleep(24 * time.Hour)
		takes("after a day", map[string]int{first.URL: 404, second.URL: 200})
		third := ask("regenerateKeyEventWebhook")
		fourth := ask("regenerateKeyEventWebhook") // at once: of a secret that leaked
		takes("after the second time", map[string]int{second.URL: 404, third.URL: 200, fourth.URL: 200, fourth.URL[:len(fourth.URL)-64]: 404})
	})
}

func TestKeyVaultEventsMakeItLookSooner(t *testing.T) {
	scenario(t, func(w *world) {
		var hook struct {
			URL string `json:"endpointUrl"`
		}
		w.decode(w.want(200, w.arm("POST", "/subscriptions/"+w.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/listKeyEventWebhook", preview, nil)), &hook)
		grid, cloud := http.Header{"Content-Type": {"application/json; charset=utf-8"}}, http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}

		// Handshakes.
		a := w.sendEvents("POST", hook.URL, `[{"id":"1","topic":"/subscriptions/x","subject":"","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"512d38b6","validationUrl":"https://example.test/"},"eventTime":"2000-01-01T00:00:00Z","metadataVersion":"1","dataVersion":"2"}]`, grid)
		if a.status != 200 || !strings.Contains(string(a.body), `"validationResponse":"512d38b6"`) {
			t.Errorf("the validation event is answered with %d %s", a.status, a.body)
		}
		a = w.sendEvents("OPTIONS", hook.URL, "", http.Header{"Webhook-Request-Origin": {"eventgrid.azure.net"}})
		if a.status != 200 || a.header.Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" || a.header.Get("WebHook-Allowed-Rate") == "" {
			t.Errorf("OPTIONS is answered with %d %v", a.status, a.header)
		}
		for _, url := range []string{hook.URL + "0", hook.URL[:len(hook.URL)-1], "https://" + managementAddr + "/keyVaultEvents/"} {
			if a := w.sendEvents("POST", url, "[]", grid); a.status != 404 {
				t.Errorf("with another secret: %d, want 404", a.status)
			}
		}
		for _, bad := range []string{"", "{", `{"eventType":1}`, "[1]"} {
			if a := w.sendEvents("POST", hook.URL, bad, grid); a.status != 400 {
				t.Errorf("%q is answered with %d, want 400", bad, a.status)
			}
		}

		// What they are for, in both schemas.
		r := w.newRelay("r1", versionless(w.kek))
		for n, send := range []func(kid string){
			func(kid string) {
				w.sendEvents("POST", hook.URL, fmt.Sprintf(`[{"id":"2","eventType":"Microsoft.KeyVault.KeyNewVersionCreated","subject":"kek","data":{"Id":%q,"VaultName":"kv1","ObjectType":"Key","ObjectName":"kek"},"eventTime":"2000-01-01T00:00:00Z"}]`, kid), grid)
			},
			func(kid string) {
				w.sendEvents("POST", hook.URL, fmt.Sprintf(`{"specversion":"1.0","id":"3","type":"Microsoft.KeyVault.KeyNewVersionCreated","source":"/x","data":{"Id":%q}}`, kid), cloud)
			},
		} {
			time.Sleep(10 * time.Minute)
			next := w.newVersion("kv1", "kek")
			send(next)
			took := w.eventually("the new version is adopted", 10*time.Second, func() bool { return r.status().KeyID == next })
			t.Logf("%d: after %s", n, took)
		}

		// An event is not believed: it says that the key expired, and the vault that it did not.
		w.sendEvents("POST", hook.URL, fmt.Sprintf(`[{"id":"4","eventType":"Microsoft.KeyVault.KeyExpired","data":{"Id":%q}}]`, r.status().KeyID), grid)
		w.sendEvents("POST", hook.URL, `[{"id":"5","eventType":"Microsoft.KeyVault.KeyNewVersionCreated","data":{"Id":"https://evil.example.com/keys/kek/0"}}]`, grid)
		time.Sleep(time.Minute)
		if !r.is("Healthy", "") {
			t.Errorf("after false events: %+v", r.status())
		}
		// A refusal is found sooner too.
		w.enable(r.status().KeyID, false)
		w.sendEvents("POST", hook.URL, `[{"id":"6","eventType":"Microsoft.KeyVault.VaultAccessPolicyChanged","data":{"Id":"https://kv1.vault.tidelock.localhost:8443/"}}]`, grid)
		r.becomes("Unusable", "KeyDisabled", 7*time.Second)
	})
}
