package keyvault

import (
	"context"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
)

type policiesView struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties struct {
		Policies []policy `json:"accessPolicies"`
	} `json:"properties"`
}

// putPolicies changes some policies and answers with all.
func (p *Provider) putPolicies(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	id := r.ID
	id.Types, id.Names = id.Types[:1], id.Names[:1]
	defer p.vaults.lock(id.Name())()
	row, err := p.vaults.row(ctx, id)
	if err != nil {
		return nil, err
	}
	var b struct {
		Properties struct {
			Policies []policy `json:"accessPolicies"`
		} `json:"properties"`
	}
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	if err := checkPolicies(b.Properties.Policies, row.Value.Properties.TenantID); err != nil {
		return nil, err
	}
	operation := strings.ToLower(r.Param("operation"))
	policies, ok := changePolicies(operation, row.Value.Properties.Policies, b.Properties.Policies)
	if !ok {
		return nil, bad(codeBad, "", "The access policy operation '%.64s' is none of add, replace and remove.", operation)
	}
	next := row.Value
	next.Properties.Policies = policies
	if _, err := p.vaults.store(ctx, r, next, &row.Value, row.Revision); err != nil {
		return nil, err
	}
	view := policiesView{ID: next.ID + "/accessPolicies/", Name: operation, Type: Type + "/accessPolicies"}
	view.Properties.Policies = policies
	return &arm.Response{Body: view}, nil
}
