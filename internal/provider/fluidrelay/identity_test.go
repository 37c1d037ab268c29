package fluidrelay

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/arm"
)

const fuzzID = "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

// Whatever is sent, the merged identity is of one of the four types, names nobody twice,
// and refusals are errors for the client.
func FuzzMergeIdentity(f *testing.F) {
	for _, s := range []string{
		`null`, `{}`, `[]`, `{"type":"UserAssigned"}`, `{"type":"systemAssigned, userassigned","userAssignedIdentities":{"` + fuzzID + `b":{}}}`,
		`{"userAssignedIdentities":{"` + fuzzID + `A":null}}`, `{"userAssignedIdentities":{"` + strings.ToUpper(fuzzID) + `a":{}}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		w, err := mergeIdentity(identity{User: []string{fuzzID + "a"}}, json.RawMessage(raw))
		var refused *arm.Error
		if err != nil {
			if !errors.As(err, &refused) || refused.Status != 400 {
				t.Fatalf("%s: got error %v, want a 400", raw, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, id := range w.User {
			if seen[identityKey(id)] {
				t.Fatalf("%s: %s is there twice", raw, id)
			}
			seen[identityKey(id)] = true
		}
		if _, err := parseKind(w.kind()); err != nil || w.declared == "" {
			t.Fatalf("%s: got kind %q, declared %q", raw, w.kind(), w.declared)
		}
	})
}

func TestKeysRedactThemselves(t *testing.T) {
	s := server{Keys: tenantKeys{Key1: "secret-one", Key2: "secret-two"}}
	printed := fmt.Sprintf("%v %+v %#v %s", s.Keys, s, s.Keys, s.Keys)
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("keys", "keys", s.Keys)
	if strings.Contains(printed+logged.String(), "secret-") {
		t.Errorf("a key is printed: %s %s", printed, logged.String())
	}
}
