package activity

import (
	"context"
	"strings"
)

// Len is how many events are stored for a subscription; -1 after an error.
func (l *Log) Len(ctx context.Context, subscription string) int {
	rows, err := l.events.List(ctx, strings.ToLower(subscription))
	if err != nil {
		return -1
	}
	return len(rows)
}

// Parses says whether a filter is one, and tries it.
func Parses(filter string) (bool, error) {
	keep, err := parseFilter(filter)
	if keep != nil {
		keep(view{})
	}
	return keep != nil, err
}
