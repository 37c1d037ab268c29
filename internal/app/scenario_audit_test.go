package app

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/vault"
)

// pages reads a whole list of the management plane.
func pages[T any](w *world, path, version string) (all []T) {
	w.t.Helper()
	for target := "https://" + managementAddr + path + "?api-version=" + version; target != ""; {
		var page struct {
			Value    []json.RawMessage `json:"value"`
			NextLink string            `json:"nextLink"`
		}
		w.decode(w.want(200, w.send("GET", target, w.token("https://management.azure.com"), nil)), &page)
		for _, raw := range page.Value {
			var one T
			if err := json.Unmarshal(raw, &one); err != nil {
				w.t.Fatal(err)
			}
			all = append(all, one)
		}
		target = page.NextLink
	}
	return all
}

// An hour of writing, rotation, refusals, outages and restarts: the relay's log of key
// uses and the vault's own AuditEvents are the same calls, both ways, by request id.
func TestScenario45OurLogIsTheVaultsEntryForEntry(t *testing.T) {
	scenario(t, func(w *world) {
		r, pinned := w.newRelay("r1", versionless(w.kek)), w.newRelay("r2", w.kek)
		d := r.document()
		y := r.join(d, "y")
		time.Sleep(10 * time.Minute)
		second := w.newVersion("kv1", "kek")
		time.Sleep(65 * time.Minute) // adopted
		w.enable(w.kek, false)
		pinned.becomes("Unusable", "KeyDisabled", stopWithin)
		w.want(400, pinned.patch(w.kek, w.id2))
		time.Sleep(5 * time.Minute)
		w.enable(w.kek, true)
		pinned.becomes("Healthy", "", backWithin)
		w.want(200, pinned.patch(second, ""))
		w.grant(w.policy(w.oid2, "get", "wrapKey", "unwrapKey"))
		r.becomes("Unusable", "AccessDenied", stopWithin)
		w.grant(w.policy(w.oid1, "get", "wrapKey", "unwrapKey"))
		r.becomes("Healthy", "", backWithin)
		y.leave()
		w.pause(0) // what is under way is written down

		operations := map[string]string{"get": "KeyGet", "wrapKey": "KeyWrap", "unwrapKey": "KeyUnwrap", "getDeleted": "KeyGetDeleted"}
		type line struct{ operation, key string }
		inVault := map[string]vault.AuditEvent{}
		var order []vault.AuditEvent
		for _, e := range pages[vault.AuditEvent](w, w.vaultPath("kv1")+"/auditEvents", "2023-07-01") {
			if c := e.Identity.Claim; c != nil && (c.ObjectID == w.oid1 || c.ObjectID == w.oid2) {
				if _, twice := inVault[e.CorrelationID]; twice {
					t.Errorf("the vault has request %s twice", e.CorrelationID)
				}
				inVault[e.CorrelationID] = e
				order = append(order, e)
			}
		}
		uses := pages[custody.KeyUse](w, "/subscriptions/"+w.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/keyUses", preview)
		alone := map[string]bool{}
		for _, u := range uses {
			if u.Count == 0 && operations[u.Op] != "" && u.RequestID != "" {
				alone[u.RequestID] = true
			}
		}
		runs := map[line][]string{} // what is left for records that stand for several
		for _, e := range order {
			if !alone[e.CorrelationID] {
				at := line{e.OperationName, e.Properties.ID}
				runs[at] = append(runs[at], e.CorrelationID)
			}
		}
		matched, reasons := 0, map[string]bool{}
		for _, u := range uses {
			operation := operations[u.Op]
			if operation == "" || u.KeyID == "service" {
				continue // a drill, a destruction
			}
			reasons[u.Reason] = true
			if u.Identity == "" || u.KeyID == "" || u.Reason == "" {
				t.Errorf("record %d lacks something: %+v", u.Seq, u)
			}
			if u.Count == 0 {
				e, ok := inVault[u.RequestID]
				if !ok || e.OperationName != operation || (u.Outcome == "ok") != (e.Properties.HTTPStatusCode == 200) {
					t.Errorf("record %d, %s of %s for %s (%s): the vault has %+v", u.Seq, u.Op, u.KeyID, u.Reason, u.Outcome, e)
				}
				matched++
				continue
			}
			at := line{operation, u.KeyID}
			if uint64(len(runs[at])) < u.Count {
				t.Errorf("record %d stands for %d uses (%s of %s), the vault has %d more", u.Seq, u.Count, u.Op, u.KeyID, len(runs[at]))
				continue
			}
			sum := sha256.New()
			for _, id := range runs[at][:u.Count] {
				sum.Write([]byte(id + "\n"))
			}
			if hex.EncodeToString(sum.Sum(nil)) != u.RequestIDs {
				t.Errorf("record %d stands for %d other requests than the vault's", u.Seq, u.Count)
			}
			runs[at] = runs[at][u.Count:]
			matched += int(u.Count)
		}
		if matched != len(order) {
			t.Errorf("%d uses are on our log, the vault has %d calls of ours", matched, len(order))
		}
		for _, want := range []string{"create", "probe", "rotate", "update", "start"} {
			if !reasons[want] {
				t.Errorf("there is no use for %s", want)
			}
		}
		t.Logf("%d calls matched", matched)
	})
}
