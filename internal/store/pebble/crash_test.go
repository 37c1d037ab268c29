package pebble

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// crashDocuments are appended to at once, so that a kill hits shared fsyncs.
const crashDocuments = 8

func crashHandle(i int) envelope.DocumentHandle { return envelope.DocumentHandle{byte(i)} }

// A process that is killed in the midst of appends loses none that it had
// reported: the child prints each head after its append returned.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		appendForever(t, dir)
		return
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "data")
	var acknowledged [crashDocuments]uint64
	for round := range 6 {
		child := child(t, dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := readHeads(out, &acknowledged, 50+rng.IntN(1000), child.Process.Kill)
		if err := child.Wait(); err == nil || lines < 50 {
			t.Fatalf("the child ended with %v after %d appends", err, lines)
		}

		st := openDir(t, dir)
		for i, want := range acknowledged {
			r, err := st.Read(t.Context(), crashHandle(i), 1, 1<<40, 0)
			if err != nil || r.Head < want || uint64(len(r.Records)) != r.Head {
				t.Errorf("round %d of seed %d, document %d: head %d with %d records, %v, after op %d was acknowledged",
					round, seed, i, r.Head, len(r.Records), err, want)
			}
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// readHeads keeps the heads that are printed, calls kill after enough of them, and
// goes on to the end: what was printed before the kill counts.
func readHeads(r io.Reader, heads *[crashDocuments]uint64, enough int, kill func() error) (lines int) {
	for in := bufio.NewScanner(r); in.Scan(); {
		var i int
		var head uint64
		if _, err := fmt.Sscanf(in.Text(), "document %d head %d.", &i, &head); err != nil || i >= crashDocuments {
			continue // cut off by the kill, or a word of the test's own
		}
		lines++
		heads[i] = max(heads[i], head)
		if lines == enough {
			if err := kill(); err != nil {
				return 0
			}
		}
	}
	return lines
}

func appendForever(t *testing.T, dir string) {
	st := openDir(t, dir)
	var wg sync.WaitGroup
	for i := range crashDocuments {
		wg.Go(func() {
			d := storetest.NewDocAt(t, crashHandle(i))
			c, err := st.Claim(context.Background(), d.Handle)
			for head := c.Head; err == nil; head++ {
				err = st.Append(context.Background(), d.Append(c, head, head+1, "x"))
				if err == nil {
					fmt.Fprintf(os.Stdout, "document %d head %d.\n", i, head+1)
				}
			}
			t.Error(err)
		})
	}
	wg.Wait()
}
