package resources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

type group struct {
	Name     string            `json:"name"` // with the letters of its creation
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags,omitempty"`
	// Deleting is the mark of a deletion, which other processes heed; a crash may leave it, and
	// whoever deletes the group again goes on.
	Deleting bool `json:"deleting,omitempty"`
}

type groupView struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties map[string]string `json:"properties"`
}

func (g group) view(subscription string) groupView {
	id := arm.ResourceID{Subscription: subscription, ResourceGroup: g.Name}
	state := "Succeeded"
	if g.Deleting {
		state = "Deleting"
	}
	return groupView{
		ID: id.String(), Name: g.Name, Type: "Microsoft.Resources/resourceGroups", Location: g.Location, Tags: g.Tags,
		Properties: map[string]string{"provisioningState": state},
	}
}

// groupName: 1 to 90 letters, digits, and -_.() but no dot at the end. Source:
// Azure naming rules, Microsoft.Resources.
var groupName = regexp.MustCompile(`^[-\p{L}\p{N}_.()]{0,89}[-\p{L}\p{N}_()]$`)

func (p *Provider) group(ctx context.Context, id arm.ResourceID) (tracked.Row[group], error) {
	row, err := p.groups.Get(ctx, strings.ToLower(id.Subscription), strings.ToLower(id.ResourceGroup))
	if errors.Is(err, store.ErrNotFound) {
		return row, arm.ErrResourceGroupNotFound(id.ResourceGroup)
	}
	return row, err
}

func (p *Provider) getGroup(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.group(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: row.Value.view(r.ID.Subscription)}, nil
}

func (p *Provider) headGroup(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.group(ctx, r.ID); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusNoContent}, nil
}

func (p *Provider) listGroups(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	rows, err := p.groups.List(ctx, strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	keep, err := parseFilter(r.HTTP.URL.Query().Get("$filter"))
	if err != nil {
		return nil, &arm.Error{Status: 400, Code: "InvalidFilterInQueryString", Message: fmt.Sprintf("Invalid $filter in the query string: %v.", err)}
	}
	var views []groupView
	for _, row := range rows {
		v := row.Value.view(r.ID.Subscription)
		if keep(tracked.Summary{ID: v.ID, Name: v.Name, Type: v.Type, Location: v.Location, Tags: v.Tags}) {
			views = append(views, v)
		}
	}
	return arm.Page(r, views, func(v groupView) string { return strings.ToLower(v.Name) })
}

type groupBody struct {
	Location string             `json:"location"`
	Tags     *map[string]string `json:"tags"`
}

func (p *Provider) putGroup(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.group(ctx, r.ID)
	exists := err == nil
	var refused *arm.Error
	if err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	var body groupBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if !exists && !groupName.MatchString(r.ID.ResourceGroup) {
		return nil, &arm.Error{Status: 400, Code: "InvalidResourceGroupName", Message: fmt.Sprintf(
			"The resource group name '%s' is not allowed: it has 1 to 90 letters, digits, hyphens, underscores, parentheses and dots, and does not end with a dot.", r.ID.ResourceGroup)}
	}
	location, err := tracked.Location(body.Location, "", arm.ResourceID{Namespace: namespace, Types: []string{"resourceGroups"}})
	if err != nil {
		return nil, err
	}
	if exists && location != row.Value.Location {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "InvalidResourceGroupLocation", Message: fmt.Sprintf(
			"Invalid resource group location '%s'. The Resource group already exists in location '%s'.", location, row.Value.Location)}
	}
	g := group{Name: r.ID.ResourceGroup, Location: location}
	if row.Value.Deleting {
		return nil, arm.ErrGroupBeingDeleted(row.Value.Name)
	}
	if exists {
		g.Name = row.Value.Name
	}
	if body.Tags != nil {
		g.Tags = *body.Tags
	}
	status := http.StatusCreated
	if exists {
		status = http.StatusOK
	}
	return p.storeGroup(ctx, r, g, row.Revision, status)
}

// patchGroup changes tags; that is all of a group that can change.
func (p *Provider) patchGroup(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.group(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	var body groupBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	g := row.Value
	if g.Deleting {
		return nil, arm.ErrGroupBeingDeleted(g.Name)
	}
	if body.Tags != nil {
		g.Tags = *body.Tags
	}
	return p.storeGroup(ctx, r, g, row.Revision, http.StatusOK)
}

func (p *Provider) storeGroup(ctx context.Context, r *arm.Request, g group, revision uint64, status int) (*arm.Response, error) {
	if err := tracked.CheckTags(g.Tags); err != nil {
		return nil, err
	}
	expect := store.Absent
	if revision > 0 {
		expect = store.AtRevision(revision)
	}
	write, err := p.groups.Put(strings.ToLower(r.ID.Subscription), strings.ToLower(g.Name), g, expect)
	if err != nil {
		return nil, err
	}
	if err := p.c.Store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	return &arm.Response{Status: status, Body: g.view(r.ID.Subscription)}, nil
}

// deleteGroup marks the group, deletes the contents, and then the group. The router lets no
// other write into the group meanwhile, on this node; those of other nodes heed the mark.
func (p *Provider) deleteGroup(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.group(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	marked := row.Value.Deleting
	if !marked {
		if row, err = p.mark(ctx, r.ID, row, true); err != nil {
			return nil, err
		}
	}
	if err := p.deleteContents(ctx, r.ID); err != nil {
		if !marked { // else another deletion may be under way
			if _, undoErr := p.mark(context.WithoutCancel(ctx), r.ID, row, false); undoErr != nil {
				p.c.Log.WarnContext(ctx, "a resource group whose deletion failed stays marked: delete it again", "group", row.Value.Name, "err", undoErr)
			}
		}
		return nil, tracked.Conflict(r.ID, fmt.Errorf("delete the contents of group %s: %w", row.Value.Name, err))
	}
	write := p.groups.Delete(strings.ToLower(r.ID.Subscription), strings.ToLower(row.Value.Name), store.AtRevision(row.Revision))
	if err := p.c.Store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	return &arm.Response{}, nil
}

// emptyings is how often a marked group is tried to be emptied. Another process that was making
// something in it takes that away itself, and may be in our way; nothing new comes.
const emptyings = 10

func (p *Provider) deleteContents(ctx context.Context, id arm.ResourceID) error {
	for _, c := range p.contents {
		var err error
		for range emptyings {
			if err = c.DeleteGroup(ctx, id.Subscription, id.ResourceGroup); !errors.Is(err, store.ErrConflict) {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mark says in the group's row whether it is being deleted, and returns the row.
func (p *Provider) mark(ctx context.Context, id arm.ResourceID, row tracked.Row[group], deleting bool) (tracked.Row[group], error) {
	row.Value.Deleting = deleting
	write, err := p.groups.Put(strings.ToLower(id.Subscription), strings.ToLower(row.Value.Name), row.Value, store.AtRevision(row.Revision))
	if err != nil {
		return row, err
	}
	if err := p.c.Store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return row, tracked.Conflict(id, err)
	}
	row.Revision++
	return row, nil
}

// listResources shows what is in a subscription or group, as $filter asks.
func (p *Provider) listResources(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	keep, err := parseFilter(r.HTTP.URL.Query().Get("$filter"))
	if err != nil {
		return nil, &arm.Error{Status: 400, Code: "InvalidFilterInQueryString", Message: fmt.Sprintf("Invalid $filter in the query string: %v.", err)}
	}
	expand := strings.ToLower(r.HTTP.URL.Query().Get("$expand"))
	var all []listed
	for _, c := range p.contents {
		some, err := c.Resources(ctx, r.ID.Subscription)
		if err != nil {
			return nil, err
		}
		for _, s := range some {
			if keep(s) && (r.ID.ResourceGroup == "" || strings.EqualFold(groupOf(s), r.ID.ResourceGroup)) {
				all = append(all, expanded(s, expand))
			}
		}
	}
	return arm.Page(r, all, func(s listed) string { return strings.ToLower(s.ID) })
}

// listed is a resource in a list, with what $expand asks for.
type listed struct {
	tracked.Summary
	Created *time.Time `json:"createdTime,omitempty"`
	Changed *time.Time `json:"changedTime,omitempty"`
	State   string     `json:"provisioningState,omitempty"`
}

func expanded(s tracked.Summary, expand string) listed {
	l := listed{Summary: s}
	if strings.Contains(expand, "createdtime") {
		l.Created = &s.History.CreatedAt
	}
	if strings.Contains(expand, "changedtime") {
		l.Changed = &s.History.LastModifiedAt
	}
	if strings.Contains(expand, "provisioningstate") {
		l.State = "Succeeded"
	}
	return l
}

func groupOf(s tracked.Summary) string {
	id, err := arm.ParseResourceID(s.ID)
	if err != nil {
		return ""
	}
	return id.ResourceGroup
}
