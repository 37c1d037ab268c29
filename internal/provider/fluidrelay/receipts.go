package fluidrelay

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/store"
)

// deletingVersions serve the deletions: the preview version answers with the receipt,
// the released ones with nothing, as Azure's do.
var deletingVersions = append(slices.Clone(releasedVersions), previewVersion)

// wireReceipt is a receipt of a deletion as package custody keeps it.
type wireReceipt struct {
	custody.Receipt
	Final bool `json:"final"` // nothing of it will change
}

// deleted is the answer to a deletion.
func deleted(r *arm.Request, receipt custody.Receipt) *arm.Response {
	if r.APIVersion != previewVersion || receipt.ID == "" {
		return &arm.Response{}
	}
	return &arm.Response{Body: wireReceipt{receipt, receipt.Final()}}
}

// acceptRollback has a container served whose log was put back to an older state.
func (p *Provider) acceptRollback(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	err = p.c.Containers.AcceptRollback(ctx, s.TenantID, r.Param("container"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, &arm.Error{Status: 404, Code: "NothingToAccept", Message: "There is no such container, or nothing is known of it that would keep it from being served."}
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{}, nil
}

func (p *Provider) listReceipts(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	token, err := r.SkipToken()
	if err != nil {
		return nil, err
	}
	after := ""
	if len(token) > 0 {
		after = hex.EncodeToString(token)
	}
	page, last, err := p.c.Custody.Receipts(ctx, after, arm.PageItems)
	if errors.Is(err, store.ErrNotFound) {
		return nil, arm.ErrInvalidSkipToken()
	}
	if err != nil {
		return nil, err
	}
	list := arm.List[wireReceipt]{Value: make([]wireReceipt, len(page))}
	for n, one := range page {
		list.Value[n] = wireReceipt{one, one.Final()}
	}
	if last != "" {
		next, err := hex.DecodeString(last)
		if err != nil {
			return nil, err
		}
		list.NextLink = r.NextLink(next)
	}
	return &arm.Response{Body: list}, nil
}
