package app

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// What the article's commands send: az with its fluid-relay extension 0.1.0, as
// recorded, and Az.FluidRelay for PowerShell, as its parameters map to members: not
// recorded. <id>, <id2>, <url> and <url2> are filled in.
var commands = map[string]struct{ create, updateKey, updateIdentity string }{
	"az": {
		create:         `{"identity": {"type": "UserAssigned", "userAssignedIdentities": {"<id>": {}}}, "location": "westus2", "properties": {"encryption": {"customerManagedKeyEncryption": {"keyEncryptionKeyIdentity": {"identityType": "UserAssigned", "userAssignedIdentityResourceId": "<id>"}, "keyEncryptionKeyUrl": "<url>"}}, "storagesku": "standard"}}`,
		updateKey:      `{"properties": {"encryption": {"customerManagedKeyEncryption": {"keyEncryptionKeyUrl": "<url2>"}}}}`,
		updateIdentity: `{"identity": {"type": "UserAssigned", "userAssignedIdentities": {"<id>": {}, "<id2>": {}}}, "properties": {"encryption": {"customerManagedKeyEncryption": {"keyEncryptionKeyIdentity": {"userAssignedIdentityResourceId": "<id2>"}}}}}`,
	},
	"powershell": {
		create:         `{"identity":{"userAssignedIdentities":{"<id>":{}},"type":"UserAssigned"},"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyIdentity":{"identityType":"UserAssigned","userAssignedIdentityResourceId":"<id>"},"keyEncryptionKeyUrl":"<url>"}}},"location":"westus2"}`,
		updateKey:      `{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":"<url2>"}}}}`,
		updateIdentity: `{"identity":{"userAssignedIdentities":{"<id>":{},"<id2>":{}},"type":"UserAssigned"},"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyIdentity":{"userAssignedIdentityResourceId":"<id2>"}}}}}`,
	},
}

// The wire requests are accepted, have the results of the article's REST requests, and
// leave what they do not name as it is.
func TestScenario40TheArticlesCommands(t *testing.T) {
	scenario(t, func(w *world) {
		second := w.newVersion("kv1", "kek")
		// compare is a relay as it is shown, without what differs between any two.
		compare := func(r relayServer) map[string]any {
			var shown map[string]any
			w.decode(w.want(200, w.arm("GET", r.path, released, nil)), &shown)
			delete(shown, "id")
			delete(shown, "name")
			delete(shown, "systemData")
			properties := shown["properties"].(map[string]any)
			delete(properties, "frsTenantId")
			delete(properties, "fluidRelayEndpoints")
			return shown
		}
		rest := w.newRelay("rest", w.kek)
		want := []map[string]any{compare(rest)}
		w.want(200, rest.patch(second, ""))
		want = append(want, compare(rest))
		w.want(200, w.arm("PATCH", rest.path, released, map[string]any{
			"identity": map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{w.id1: map[string]any{}, w.id2: map[string]any{}}},
			"properties": map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": map[string]any{
				"keyEncryptionKeyIdentity": map[string]any{"userAssignedIdentityResourceId": w.id2},
			}}},
		}))
		want = append(want, compare(rest))

		for name, c := range commands {
			fill := strings.NewReplacer("<id>", w.id1, "<id2>", w.id2, "<url>", w.kek, "<url2>", second).Replace
			r := w.made(name, w.put(name, fill(c.create)))
			d := r.document()
			for n, step := range []struct{ body, what string }{{"", "create"}, {c.updateKey, "update of the key"}, {c.updateIdentity, "update of the identity"}} {
				if step.body != "" {
					w.want(200, w.arm("PATCH", r.path, released, fill(step.body)))
				}
				if got := compare(r); !reflect.DeepEqual(got, want[n]) {
					t.Errorf("%s, %s:\n got %s\nwant %s", name, step.what, text(got), text(want[n]))
				}
				if !r.serves(d) {
					t.Errorf("%s, %s: the data is not served", name, step.what)
				}
			}
			w.want(200, w.arm("PATCH", r.path, released, `{"tags": {"a": "1"}}`))
			if got := compare(r); !reflect.DeepEqual(got["properties"], want[2]["properties"]) || fmt.Sprint(got["tags"]) != "map[a:1]" {
				t.Errorf("%s, update of tags alone: got %s", name, text(got))
			}
			w.want(200, w.arm("DELETE", r.path, released, nil))
		}
	})
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
