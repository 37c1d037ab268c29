package fluidrelay

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
)

// wireProof is the report of a walk through everything at rest.
type wireProof struct {
	State   string     `json:"state"` // Running, Proven, Incomplete, Failed
	Started *time.Time `json:"startedAt"`
	Ended   *time.Time `json:"endedAt,omitempty"`
	Error   string     `json:"error,omitempty"` // the walk broke off

	Rows      int            `json:"rows"`
	Documents int            `json:"documents"`
	Headers   int            `json:"segmentHeaders"`
	Records   int            `json:"records"`
	Objects   int            `json:"objects"`
	Bytes     int64          `json:"sealedBytes"`
	KeyIDs    map[string]int `json:"documentsByKey"`
	Keys      int            `json:"documentKeys"`           // those of before among them
	Older     int            `json:"underOlderDocumentKeys"` // segments and objects
	Loose     int            `json:"looseBlobs"`
	Shredded  int            `json:"shreddedValues"`
	Unproven  map[string]int `json:"unprovenDocuments"`
	Failed    int            `json:"failed"`
	Failures  []string       `json:"failures"`
}

func newWireProof(p custody.Proof) wireProof {
	w := wireProof{
		State: "Running", Started: when(p.Started), Ended: when(p.Ended), Error: p.Err, Rows: p.Rows, Documents: p.Documents, Headers: p.Headers,
		Records: p.Records, Objects: p.Objects, Bytes: p.Bytes, KeyIDs: p.KeyIDs, Keys: p.DocumentKeys, Older: p.UnderOlder, Loose: p.Loose, Shredded: p.Shredded, Unproven: p.Unproven, Failed: p.Failed, Failures: p.Failures,
	}
	if w.Failures == nil {
		w.Failures = []string{}
	}
	switch {
	case p.Ended.IsZero():
	case p.Whole():
		w.State = "Proven"
	case p.Failed > 0:
		w.State = "Failed"
	default:
		w.State = "Incomplete"
	}
	return w
}

// proveEncryption begins a walk through everything that the installation stores. It
// answers at once; the report is read with encryptionProof.
func (p *Provider) proveEncryption(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	err := p.c.Custody.StartProof()
	switch {
	case errors.Is(err, custody.ErrProofRuns):
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ProofRunning", Message: "A proof is running; its report follows."}
	case err != nil:
		return nil, err
	}
	return p.showProof(ctx, r)
}

func (p *Provider) showProof(context.Context, *arm.Request) (*arm.Response, error) {
	proof, err := p.c.Custody.LastProof()
	if errors.Is(err, custody.ErrNoProof) {
		return nil, &arm.Error{Status: http.StatusNotFound, Code: "ProofNotFound", Message: "There was no proof since the server started."}
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: newWireProof(proof)}, nil
}
