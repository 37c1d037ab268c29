package fluidrelay

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"

	"github.com/tidelock/tidelock/internal/arm"
)

// usesPage is how many key uses one answer has: some 300 kB.
const usesPage = 500

// wireUses is a page of the log of key uses. The records are those that are stored,
// byte by byte: their hashes are over these bytes. Last and Hash say where the log ends.
type wireUses struct {
	Value    []json.RawMessage `json:"value"`
	NextLink string            `json:"nextLink,omitempty"`
	First    uint64            `json:"first"`
	Last     uint64            `json:"last"`
	Hash     string            `json:"hash"`
}

func (p *Provider) keyUses(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	query := r.HTTP.URL.Query()
	var after uint64
	if token := query.Get("$skipToken"); token != "" {
		var err error
		if after, err = strconv.ParseUint(token, 10, 63); err != nil {
			return nil, &arm.Error{Status: 400, Code: "InvalidSkipToken", Message: "The $skipToken is not one that a nextLink of this list has."}
		}
	}
	found, err := p.c.Custody.KeyUses(ctx, after, usesPage)
	if err != nil {
		return nil, err
	}
	w := wireUses{Value: found.Records, First: found.First, Last: found.Last, Hash: found.Hash}
	if w.Value == nil {
		w.Value = []json.RawMessage{}
	}
	if end := max(after+1, found.First) + uint64(len(w.Value)) - 1; len(w.Value) > 0 && end < found.Last {
		query.Set("$skipToken", strconv.FormatUint(end, 10))
		next := url.URL{Scheme: "https", Host: r.HTTP.Host, Path: r.HTTP.URL.Path, RawPath: r.HTTP.URL.RawPath, RawQuery: query.Encode()}
		w.NextLink = next.String()
	}
	return &arm.Response{Body: w}, nil
}
