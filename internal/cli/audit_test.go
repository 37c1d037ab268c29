package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// chain makes a log that verifies, from record first on.
func chain(first uint64, n int) keyUses {
	l := keyUses{First: first, Last: first - 1, Hash: strings.Repeat("00", 32)}
	for range n {
		l.Last++
		raw := fmt.Appendf(nil, `{"version":1,"seq":%d,"op":"get","prev":%q}`, l.Last, l.Hash)
		l.Records, l.Hash = append(l.Records, raw), hashOf(raw)
	}
	return l
}

func TestVerifyKeyUses(t *testing.T) {
	for _, c := range []struct {
		name string
		by   func(*keyUses)
		says string // empty: whole
	}{
		{"Whole", func(*keyUses) {}, ""},
		{"Empty", func(l *keyUses) { *l = chain(1, 0) }, ""},
		{"OldestAreGone", func(l *keyUses) { *l = chain(77, 3) }, ""},
		{"Indented", func(l *keyUses) {
			for n, raw := range l.Records {
				l.Records[n] = json.RawMessage(strings.ReplaceAll(string(raw), ",", ",\n  "))
			}
		}, ""},
		{"Changed", func(l *keyUses) {
			l.Records[1] = json.RawMessage(strings.Replace(string(l.Records[1]), "get", "wrapKey", 1))
		}, "record 3 does not follow"},
		{"LastChanged", func(l *keyUses) {
			l.Records[3] = json.RawMessage(strings.Replace(string(l.Records[3]), "get", "wrapKey", 1))
		}, "the last record"},
		{"Dropped", func(l *keyUses) { l.Records = slices.Delete(l.Records, 1, 2) }, "3 records of 4"},
		{"CutOff", func(l *keyUses) { l.Records = l.Records[:3] }, "3 records of 4"},
		{"CutOffWithItsCount", func(l *keyUses) { l.Records, l.Last = l.Records[:3], 3 }, "the last record"},
		{"Swapped", func(l *keyUses) { l.Records[1], l.Records[2] = l.Records[2], l.Records[1] }, "in the place of"},
		{"Unreadable", func(l *keyUses) { l.Records[1] = json.RawMessage(`"x"`) }, "does not decode"},
		{"Lost", func(l *keyUses) {
			raw := []byte(`{"seq":1,"lost":5}`)
			*l = keyUses{Records: []json.RawMessage{raw}, First: 1, Last: 1, Hash: hashOf(raw)}
		}, "did not take 5 uses"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := chain(1, 4)
			c.by(&l)
			_, err := l.verify()
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}
