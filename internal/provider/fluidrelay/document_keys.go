package fluidrelay

import (
	"context"
	"errors"
	"net/http"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/store"
)

// rotateContainerKey has a container's new data sealed under a new key.
func (p *Provider) rotateContainerKey(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	err = p.c.Containers.RotateContainerKey(ctx, s.TenantID, r.Param("container"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, &arm.Error{Status: http.StatusNotFound, Code: "ContainerNotFound", Target: r.Param("container"), Message: "There is no such container, or it was deleted."}
	}
	return rotated(1, err)
}

// rotateDocumentKeys does it for all containers of a server.
func (p *Provider) rotateDocumentKeys(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	return rotated(p.c.Custody.RotateDocuments(ctx, s.Resource))
}

func rotated(n int, err error) (*arm.Response, error) {
	var unusable *custody.UnusableError
	if errors.As(err, &unusable) {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "KeyUnusable", Message: "The keys of containers cannot be replaced while the server's key cannot be used (" + unusable.Reason + "). " + fixes[unusable.Reason]}
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: struct {
		Rotated int `json:"rotated"` // keys
	}{n}}, nil
}
