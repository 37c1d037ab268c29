package entra

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store/memory"
)

func publishedKeys(t *testing.T, s *Service) []string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/common/discovery/v2.0/keys", nil))
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range set.Keys {
		ids = append(ids, k.Kid)
	}
	return ids
}

// A new key signs by itself every 90 days; tokens of the old one live out their
// time; then it is published no more. Two nodes on one store agree.
func TestSigningKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := Config{Store: memory.New(), Service: envelope.NewServiceKey(), Login: "https://login.test", VaultSuffix: "vault.test"}
		one, err := Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		two, err := Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		d, err := one.CreateDirectory(t.Context(), "contoso")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.CreateManagedIdentity(t.Context(), d, testIdentity); err != nil {
			t.Fatal(err)
		}
		token := func(s *Service) string {
			got, err := s.Credential(testIdentity).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
			if err != nil {
				t.Fatal(err)
			}
			return "Bearer " + got.Token
		}
		good := func(when, bearer string) {
			t.Helper()
			for name, s := range map[string]*Service{"one": one, "two": two} {
				if _, err := s.Vault(carrying(bearer), d); err != nil {
					t.Errorf("%s, on node %s: %v", when, name, err)
				}
			}
		}
		first := publishedKeys(t, one)
		if len(first) != 1 {
			t.Fatalf("got keys %v, want one", first)
		}

		time.Sleep(signingKeyLife)
		old := token(two) // node two has read the keys at the end of the first one's life
		time.Sleep(time.Second)
		time.Sleep(signingKeysFresh)
		fresh := token(one)
		good("the old key's token", old)
		good("the new key's token", fresh)
		if got := publishedKeys(t, one); len(got) != 2 {
			t.Errorf("after the rotation: got keys %v, want both", got)
		}
		time.Sleep(tokenLifetime - signingKeysFresh - 2*time.Second)
		good("just before its end", old)
		time.Sleep(tokenLifetime + 2*signingKeysFresh)
		if got := publishedKeys(t, two); len(got) != 1 || got[0] == first[0] {
			t.Errorf("later: got keys %v, want the new one alone", got)
		}

		before := token(one)
		if err := two.RotateSigningKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		good("a rotation by hand: before", before)
		good("a rotation by hand: after", token(two))
		rows, err := two.keys.table.List(t.Context(), two.keys.table.Key("1").Partition)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Value.Number == 1 {
				t.Error("the first key is still stored")
			}
		}
	})
}

// Made-up key ids do not become reads of the store without end.
func TestUnknownKeyIDsAreCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openTest(t)
		read := s.keys.read
		time.Sleep(9 * time.Second)
		for range 100 {
			if _, known, err := s.keys.find(t.Context(), "made up"); known || err != nil {
				t.Fatal(known, err)
			}
		}
		if !s.keys.read.Equal(read) {
			t.Error("the keys were read again within ten seconds")
		}
	})
}
