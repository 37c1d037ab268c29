package resources

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
)

// tagRoutes are the tags of anything, without any permission on it but that on its tags.
func (p *Provider) tagRoutes() []arm.Route {
	const one = arm.InScope + "/providers/" + namespace + "/tags/default"
	const read, write, remove = namespace + "/tags/read", namespace + "/tags/write", namespace + "/tags/delete"
	return []arm.Route{
		{Method: "GET", Pattern: one, Action: read, Handle: p.getTags},
		{Method: "PUT", Pattern: one, Action: write, Handle: p.putTags},
		{Method: "PATCH", Pattern: one, Action: write, Handle: p.patchTags},
		{Method: "DELETE", Pattern: one, Action: remove, Handle: p.deleteTags},
		{Method: "GET", Pattern: arm.InSubscription + "/tagNames", Action: namespace + "/subscriptions/tagNames/read", Handle: p.listTagNames},
	}
}

type tagsView struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties tagsProperties `json:"properties"`
}

type tagsProperties struct {
	Tags map[string]string `json:"tags"`
}

func showTags(r *arm.Request, tags map[string]string) *arm.Response {
	if tags == nil {
		tags = map[string]string{}
	}
	return &arm.Response{Body: tagsView{
		ID: r.ID.Scope() + "/providers/" + namespace + "/tags/default", Name: "default", Type: namespace + "/tags", Properties: tagsProperties{tags},
	}}
}

// tagsOf reads the tags of what the request's scope names, through its own GET.
func (p *Provider) tagsOf(ctx context.Context, r *arm.Request) (map[string]string, error) {
	if r.ID.ResourceGroup == "" {
		return nil, &arm.Error{Status: 400, Code: "TagsNotSupported", Message: "Subscriptions have no tags here: resource groups and resources have."}
	}
	var found struct {
		Tags map[string]string `json:"tags"`
	}
	err := p.within(ctx, r, "GET", nil, &found)
	return found.Tags, err
}

// within makes a request of the caller's for what the scope names, as its provider serves it.
func (p *Provider) within(ctx context.Context, r *arm.Request, method string, body, out any) error {
	resp, err := p.router.Within(ctx, r, method, body)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(resp.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

func (p *Provider) getTags(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	tags, err := p.tagsOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return showTags(r, tags), nil
}

// change makes of the current tags what by says, and answers with the result.
func (p *Provider) change(ctx context.Context, r *arm.Request, by func(tags map[string]string)) (*arm.Response, error) {
	defer p.locks.Lock("tags of " + r.ID.Key())()
	tags, err := p.tagsOf(ctx, r)
	if err != nil {
		return nil, err
	}
	next := maps.Clone(tags)
	if next == nil {
		next = map[string]string{}
	}
	by(next)
	var after struct {
		Tags map[string]string `json:"tags"`
	}
	if err := p.within(ctx, r, "PATCH", map[string]any{"tags": next}, &after); err != nil {
		return nil, err
	}
	return showTags(r, after.Tags), nil
}

type tagsBody struct {
	Operation  string         `json:"operation"`
	Properties tagsProperties `json:"properties"`
}

func (p *Provider) putTags(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b tagsBody
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	return p.change(ctx, r, func(tags map[string]string) {
		clear(tags)
		maps.Copy(tags, b.Properties.Tags)
	})
}

// patchTags merges, replaces or deletes. Names are compared without case.
func (p *Provider) patchTags(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b tagsBody
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	same := func(name string) func(string, string) bool {
		return func(n, _ string) bool { return strings.EqualFold(n, name) }
	}
	switch strings.ToLower(b.Operation) {
	case "replace":
		return p.change(ctx, r, func(tags map[string]string) {
			clear(tags)
			maps.Copy(tags, b.Properties.Tags)
		})
	case "merge":
		return p.change(ctx, r, func(tags map[string]string) {
			for name, value := range b.Properties.Tags {
				maps.DeleteFunc(tags, same(name))
				tags[name] = value
			}
		})
	case "delete": // of a name, or of a name with this value
		return p.change(ctx, r, func(tags map[string]string) {
			for name, value := range b.Properties.Tags {
				maps.DeleteFunc(tags, func(n, v string) bool { return strings.EqualFold(n, name) && (value == "" || v == value) })
			}
		})
	}
	return nil, &arm.Error{Status: 400, Code: "InvalidTagsOperation", Target: "operation", Message: fmt.Sprintf("The operation '%.40s' is none of Merge, Replace and Delete.", b.Operation)}
}

func (p *Provider) deleteTags(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.change(ctx, r, func(tags map[string]string) { clear(tags) }); err != nil {
		return nil, err
	}
	return &arm.Response{}, nil
}

type tagCount struct {
	Type  string `json:"type"`
	Value int    `json:"value"`
}

type tagValue struct {
	ID    string   `json:"id"`
	Value string   `json:"tagValue"`
	Count tagCount `json:"count"`
}

type tagName struct {
	ID     string     `json:"id"`
	Name   string     `json:"tagName"`
	Count  tagCount   `json:"count"`
	Values []tagValue `json:"values"`
}

// listTagNames counts the tags that are in use.
func (p *Provider) listTagNames(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	counts := map[string]map[string]int{} // by name in lower case, by value
	add := func(tags map[string]string) {
		for name, value := range tags {
			name = strings.ToLower(name)
			if counts[name] == nil {
				counts[name] = map[string]int{}
			}
			counts[name][value]++
		}
	}
	groups, err := p.groups.List(ctx, strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		add(g.Value.Tags)
	}
	for _, c := range p.contents {
		some, err := c.Resources(ctx, r.ID.Subscription)
		if err != nil {
			return nil, err
		}
		for _, s := range some {
			add(s.Tags)
		}
	}
	var views []tagName
	for name, values := range counts {
		v := tagName{ID: "/subscriptions/" + r.ID.Subscription + "/tagNames/" + name, Name: name, Count: tagCount{Type: "Total"}}
		for _, value := range slices.Sorted(maps.Keys(values)) {
			v.Count.Value += values[value]
			v.Values = append(v.Values, tagValue{ID: v.ID + "/tagValues/" + value, Value: value, Count: tagCount{"Total", values[value]}})
		}
		views = append(views, v)
	}
	return arm.Page(r, views, func(v tagName) string { return v.Name })
}
