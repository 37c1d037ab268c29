package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
)

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Hint adds to err what its reader can do.
func Hint(err error, hint string) error { return hinted{err, hint} }

// PrintError writes err, and its hint if it has one, as every command does.
func PrintError(w io.Writer, err error) {
	fmt.Fprintf(w, "tidelock: error: %v\n", err)
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintf(w, "tidelock: hint: %s\n", h.hint)
	}
}

// printer writes results as a table or as JSON.
type printer struct {
	w    io.Writer
	json bool
}

// print writes value as JSON, or rows (the first is the head) as a table.
func (p printer) print(value any, rows [][]string) error {
	if p.json {
		e := json.NewEncoder(p.w)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}
