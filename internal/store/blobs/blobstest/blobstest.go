// Package blobstest is the contract of package blobs as one test suite: every kind of
// object store passes it.
package blobstest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store/blobs"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// Sealed returns a sealed object of so many bytes of plaintext.
func Sealed(t testing.TB, bytes int) envelope.Sealed {
	t.Helper()
	return storetest.NewDoc(t).Object("id", string(make([]byte, bytes))).Value
}

// TestStore runs the contract on an empty object store.
func TestStore(t *testing.T, st blobs.Store) {
	ctx := t.Context()
	t.Run("ComesBack", func(t *testing.T) {
		for _, size := range []int{0, 1, 100_000, 9 << 20} {
			name, value := blobs.NewName(), Sealed(t, size)
			if err := st.Put(ctx, name, value); err != nil {
				t.Fatal(err)
			}
			got, err := st.Get(ctx, name, len(value.Bytes()))
			if err != nil || !bytes.Equal(got, value.Bytes()) {
				t.Errorf("%d bytes, %v; want the %d that were put", len(got), err, len(value.Bytes()))
			}
			if got, err := st.Get(ctx, name, len(value.Bytes())-1); err == nil {
				t.Errorf("%d bytes, and at most one less was asked for", len(got))
			}
			if got, err := st.Get(ctx, name, len(value.Bytes())+5); err != nil || !bytes.Equal(got, value.Bytes()) {
				t.Errorf("with room for more: %d bytes, %v", len(got), err)
			}
			if err := st.Delete(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("UnknownIsSaid", func(t *testing.T) {
		name := blobs.NewName()
		if _, err := st.Get(ctx, name, 10); !errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		if err := st.Delete(ctx, name); err != nil {
			t.Errorf("deleting nothing: %v", err)
		}
	})
	t.Run("DeletedIsGone", func(t *testing.T) {
		name, kept := blobs.NewName(), blobs.NewName()
		value := Sealed(t, 100)
		for _, n := range []blobs.Name{name, kept} {
			if err := st.Put(ctx, n, value); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := st.Delete(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := st.Get(ctx, name, 1000); !errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		if _, err := st.Get(ctx, kept, 1000); err != nil {
			t.Errorf("the other: %v", err)
		}
		if err := st.Delete(ctx, kept); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("ListedInOrder", func(t *testing.T) { listedInOrder(t, st) })
	t.Run("EndedCallsDoNothing", func(t *testing.T) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		name := blobs.NewName()
		if err := st.Put(ended, name, Sealed(t, 1)); err == nil {
			t.Error("put: no error")
		}
		if _, err := st.Get(ctx, name, 1000); !errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
}

func listedInOrder(t *testing.T, st blobs.Store) {
	ctx := t.Context()
	var names []blobs.Name
	var wg sync.WaitGroup
	for range 30 {
		name := blobs.NewName()
		names = append(names, name)
		wg.Go(func() {
			if err := st.Put(ctx, name, Sealed(t, 10)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.SortFunc(names, func(a, b blobs.Name) int { return bytes.Compare(a[:], b[:]) })
	list := func(after blobs.Name, limit int) []blobs.Name {
		got, err := st.List(ctx, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, c := range []struct {
		what  string
		after blobs.Name
		limit int
		want  []blobs.Name
	}{
		{"all", blobs.Name{}, 100, names},
		{"the first", blobs.Name{}, 1, names[:1]},
		{"after the tenth", names[9], 100, names[10:]},
		{"five after the tenth", names[9], 5, names[10:15]},
		{"after the last", names[29], 100, nil},
	} {
		if got := list(c.after, c.limit); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d names, want %d", c.what, len(got), len(c.want))
		}
	}
	for _, name := range names {
		if err := st.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(blobs.Name{}, 100); len(got) != 0 {
		t.Errorf("%d left", len(got))
	}
}
