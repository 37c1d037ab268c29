package keyvault

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// auditPage is how many records one answer has: some 500 kB.
const auditPage = 500

// wireAudit is a page of a vault's audit log, oldest first. First and Last are the
// numbers of all records there are.
type wireAudit struct {
	Value    []json.RawMessage `json:"value"`
	NextLink string            `json:"nextLink,omitempty"`
	First    uint64            `json:"first"`
	Last     uint64            `json:"last"`
	Lost     uint64            `json:"lost"` // records that could not be written, ever
}

// named is the vault or HSM that a request's path names.
func named(r *arm.Request, isHSM bool) vault.Vault {
	return vault.Vault{Name: r.ID.Names[0], HSM: isHSM}
}

// auditEvents lists the audit log of a vault, or of an HSM.
func (p *Provider) auditEvents(isHSM bool) func(context.Context, *arm.Request) (*arm.Response, error) {
	return func(ctx context.Context, r *arm.Request) (*arm.Response, error) {
		if _, found, err := p.dataPlaneOf(ctx, r, isHSM); err != nil {
			return nil, err
		} else if !found {
			return nil, arm.ErrResourceNotFound(owner(r.ID))
		}
		var after uint64
		if token := r.HTTP.URL.Query().Get("$skipToken"); token != "" {
			raw, err := r.SkipToken()
			if err == nil {
				after, err = strconv.ParseUint(string(raw), 10, 63)
			}
			if err != nil {
				return nil, arm.ErrInvalidSkipToken()
			}
		}
		page, err := p.c.Vaults.AuditEvents(ctx, named(r, isHSM), after, auditPage)
		if err != nil {
			return nil, err
		}
		w := wireAudit{Value: page.Records, First: page.First, Last: page.Last, Lost: page.Lost}
		if w.Value == nil {
			w.Value = []json.RawMessage{}
		}
		if end := max(after+1, page.First) + uint64(len(w.Value)) - 1; len(w.Value) > 0 && end < page.Last {
			w.NextLink = r.NextLink(strconv.AppendUint(nil, end, 10))
		}
		return &arm.Response{Body: w}, nil
	}
}

// owner is the vault of an id below it.
func owner(id arm.ResourceID) arm.ResourceID {
	id.Types, id.Names = id.Types[:1], id.Names[:1]
	return id
}

// dataPlaneOf finds what the data plane has of the resource that a request names; a
// vault of the same name elsewhere is not it.
func (p *Provider) dataPlaneOf(ctx context.Context, r *arm.Request, isHSM bool) (vault.Vault, bool, error) {
	find := p.c.Vaults.Get
	if isHSM {
		find = p.c.Vaults.GetHSM
	}
	v, err := find(ctx, r.ID.Names[0])
	if errors.Is(err, store.ErrNotFound) {
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	id, err := arm.ParseResourceID(v.ResourceID)
	return v, err == nil && id.Key() == owner(r.ID).Key() && v.Deleted.IsZero(), nil
}

// recorded writes what a route did down in the vault's audit log, if there is the vault
// before or after it.
func (p *Provider) recorded(operation string, isHSM bool, handle func(context.Context, *arm.Request) (*arm.Response, error)) func(context.Context, *arm.Request) (*arm.Response, error) {
	return func(ctx context.Context, r *arm.Request) (*arm.Response, error) {
		began := time.Now()
		v, found, err := p.dataPlaneOf(ctx, r, isHSM)
		if err != nil {
			return nil, err
		}
		resp, failed := handle(ctx, r)
		if !found {
			if v, found, err = p.dataPlaneOf(ctx, r, isHSM); err != nil || !found {
				return resp, failed
			}
		}
		e := vault.AuditEvent{
			Time: began.UTC(), OperationName: operation, OperationVersion: r.APIVersion,
			CorrelationID: truncated(r.HTTP.Header.Get("X-Ms-Correlation-Request-Id"), 64),
			Identity:      vault.AuditIdentity{Claim: &vault.AuditClaim{ObjectID: r.Caller.ObjectID, AppID: r.Caller.ClientID}},
			Properties: vault.AuditProperties{
				ClientInfo: truncated(r.HTTP.UserAgent(), 256), RequestURI: truncated("https://"+r.HTTP.Host+r.HTTP.URL.RequestURI(), 1024),
			},
		}
		if host, _, err := net.SplitHostPort(r.HTTP.RemoteAddr); err == nil {
			e.CallerIPAddress = host
		}
		status := http.StatusOK
		var refused *arm.Error
		switch {
		case errors.As(failed, &refused):
			status, e.ResultDescription = refused.Status, refused.Code
		case failed != nil:
			status = http.StatusInternalServerError
		case resp != nil && resp.Status != 0:
			status = resp.Status
		}
		p.c.Vaults.RecordManagement(v, e, status)
		return resp, failed
	}
}

func truncated(s string, bytes int) string { return s[:min(len(s), bytes)] }
