package graph

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

type directory struct {
	ID      entra.DirectoryID `json:"id"`
	Name    string            `json:"displayName"`
	Created time.Time         `json:"createdDateTime"`

	// Of one that was just made:
	Subscription  string         `json:"subscriptionId,omitempty"`
	Administrator *administrator `json:"administrator,omitempty"`
}

type administrator struct {
	ID     string `json:"id"`
	AppID  string `json:"appId"`
	Secret string `json:"secretText"` // shown once
}

// ofHome refuses everybody but the administrators of the home directory.
func (h *handler) ofHome(c *call) error {
	if c.caller.Administrator && c.directory() == h.Home {
		return nil
	}
	return forbidden("Insufficient privileges to complete the operation: it takes an administrator of the home directory.")
}

// listDirectories shows the home directory's administrators all, others their own.
func (h *handler) listDirectories(ctx context.Context, c *call) (answer, error) {
	all, err := h.Entra.Directories(ctx)
	if err != nil {
		return answer{}, err
	}
	var views []directory
	for _, d := range all {
		if d.ID == c.directory() || h.ofHome(c) == nil {
			views = append(views, directory{ID: d.ID, Name: d.Name, Created: d.Created.Truncate(time.Second)})
		}
	}
	return ok(list(views))
}

// createDirectory makes a directory with an administrator, and a subscription that he
// owns, in one write: everything else can be made from there.
func (h *handler) createDirectory(ctx context.Context, c *call) (answer, error) {
	if err := h.ofHome(c); err != nil {
		return answer{}, err
	}
	var b struct {
		Name string `json:"displayName"`
	}
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	if b.Name == "" || len(b.Name) > maxName {
		return answer{}, badRequest("A displayName of 1 to %d characters is needed.", maxName)
	}
	subscription := uuid.NewString()
	made, err := h.Entra.Found(ctx, b.Name, "/subscriptions/"+subscription, func(d entra.DirectoryID) (store.RowWrite, error) {
		return h.Subscription(subscription, b.Name, d)
	})
	if err != nil {
		return answer{}, err
	}
	d, admin := made.Directory, made.Administrator
	return answer{http.StatusCreated, directory{
		ID: d.ID, Name: d.Name, Created: d.Created.Truncate(time.Second), Subscription: subscription,
		Administrator: &administrator{ID: admin.ObjectID, AppID: admin.ClientID, Secret: made.Secret},
	}}, nil
}

// rotateSigningKey makes a new key for tokens of all directories.
func (h *handler) rotateSigningKey(ctx context.Context, c *call) (answer, error) {
	if err := h.ofHome(c); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, h.Entra.RotateSigningKey(ctx)
}
