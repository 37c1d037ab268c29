package vault

import (
	"context"
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
)

// maxPage is the most items a list's page has, and how many it has unless asked.
const maxPage = 25

// pageSize reads maxresults.
func (c *call) pageSize() (int, error) {
	asked := c.r.URL.Query().Get("maxresults")
	if asked == "" {
		return maxPage, nil
	}
	n, err := strconv.Atoi(asked)
	if err != nil || n < 1 || n > maxPage {
		return 0, badParameter("Invalid maxResults. It must be in the range 1-%d.", maxPage)
	}
	return n, nil
}

// nextLink leads to the page behind token.
func (s *Service) nextLink(c *call, path string, size int, token string) *string {
	query := url.Values{
		"api-version": {c.r.URL.Query().Get("api-version")},
		"maxresults":  {strconv.Itoa(size)},
		"$skiptoken":  {token},
	}
	link := s.uri(c.vault) + path + "?" + query.Encode()
	return &link
}

func listKeys(ctx context.Context, s *Service, c *call) (any, error) {
	return s.list(ctx, c, func(k keyRow) bool { return k.Deleted == nil })
}

func listDeleted(ctx context.Context, s *Service, c *call) (any, error) {
	now := time.Now()
	return s.list(ctx, c, func(k keyRow) bool { return k.Deleted != nil && !k.purged(now) })
}

// list pages through the keys that are wanted, in the order of their rows' names,
// which are hashes: the token tells nothing and a changed one leads nowhere.
func (s *Service) list(ctx context.Context, c *call, wanted func(keyRow) bool) (any, error) {
	size, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	var after envelope.Name
	if token := c.r.URL.Query().Get("$skiptoken"); token != "" {
		b, err := hex.DecodeString(token)
		if err != nil || len(b) != len(after) {
			return nil, badParameter("The skiptoken is not valid.")
		}
		copy(after[:], b)
	}
	answer := keyList{Value: []keyItem{}}
	for {
		rows, err := s.keys.Page(ctx, s.keyPartition(c.vault), after, maxPage)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if !wanted(row.Value) {
				after = row.Name
				continue
			}
			if len(answer.Value) == size {
				answer.NextLink = s.nextLink(c, c.target.collection, size, hex.EncodeToString(after[:]))
				return answer, nil
			}
			item, err := s.keyItem(ctx, c.vault, row.Value)
			if err != nil {
				return nil, err
			}
			answer.Value = append(answer.Value, item)
			after = row.Name
		}
		if len(rows) < maxPage {
			return answer, nil
		}
	}
}

// keyItem shows a key with its newest version's attributes, without a version.
func (s *Service) keyItem(ctx context.Context, v Vault, k keyRow) (keyItem, error) {
	row, _, err := s.versions.Get(ctx, s.versionKey(v, k.Name, k.newest()))
	if err != nil {
		return keyItem{}, err
	}
	return keyItem{
		ID: s.keyID(v, k.Name, ""), Attributes: v.attributes(row), Tags: row.Tags,
		deletedBundle: s.deletedBundle(v, k),
	}, nil
}

// listVersions pages through a key's versions, oldest first; the token is the
// last version shown.
func listVersions(ctx context.Context, s *Service, c *call) (any, error) {
	size, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	k, _, err := s.key(ctx, c.vault, c.target.key)
	if err != nil {
		return nil, err
	}
	versions := k.Versions
	if token := c.r.URL.Query().Get("$skiptoken"); token != "" {
		at := slices.Index(versions, token)
		if at < 0 {
			return nil, badParameter("The skiptoken is not valid.")
		}
		versions = versions[at+1:]
	}
	answer := keyList{Value: []keyItem{}}
	if len(versions) > size {
		versions = versions[:size]
		answer.NextLink = s.nextLink(c, "keys/"+k.Name+"/versions", size, versions[size-1])
	}
	for _, id := range versions {
		row, _, err := s.versions.Get(ctx, s.versionKey(c.vault, k.Name, id))
		if err != nil {
			return nil, err
		}
		answer.Value = append(answer.Value, keyItem{
			ID: s.keyID(c.vault, k.Name, id), Attributes: c.vault.attributes(row), Tags: row.Tags,
		})
	}
	return answer, nil
}
