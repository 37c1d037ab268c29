package resources

import (
	"testing"

	"github.com/tidelock/tidelock/internal/provider/tracked"
)

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"", "name eq 'a'", "name eq 'a' and tagName eq 'it''s'", "name eq 'a' and", "eq eq eq", "name eq ''"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		keep, err := parseFilter(s)
		if (keep == nil) == (err == nil) {
			t.Fatalf("%q: got a filter: %v, and error %v", s, keep != nil, err)
		}
		if keep != nil {
			keep(tracked.Summary{ID: s, Name: s, Tags: map[string]string{s: s}})
		}
	})
}
