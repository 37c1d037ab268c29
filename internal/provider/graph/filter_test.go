package graph

import (
	"testing"

	"github.com/tidelock/tidelock/internal/entra"
)

// A filter is understood or refused; one that is understood keeps no more than what
// its value is equal to, or a prefix of.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"", "appId eq 'x'", "displayName eq 'it''s'", "startswith(displayName,'a')", "servicePrincipalNames/any(c:c eq 'x')",
		"servicePrincipalNames/any(a:b eq 'x')", "appId eq 'x' or 1 eq 1", "appId eq ''", "'", "(((((",
	} {
		f.Add(seed)
	}
	someone := entra.Details{Principal: entra.Principal{ObjectID: "o", ClientID: "c", Name: "n"}}
	f.Fuzz(func(t *testing.T, filter string) {
		keep, err := parseFilter(filter)
		if (keep == nil) == (err == nil) {
			t.Fatalf("%q: got %t, %v", filter, keep != nil, err)
		}
		if err == nil {
			keep(someone)
		}
	})
}
