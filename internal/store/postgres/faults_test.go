package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

const loadWriters = 8

func TestServerKilledUnderLoad(t *testing.T) {
	server := pgtest.Start(t)
	e := openURL(t, server.NewDatabase(t))
	load := storetest.StartLoad(t, e, loadWriters)
	for range 4 {
		load.Await(200)
		server.Kill()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	load.Await(200)
	load.Check(e)
}

// Failover to the standby loses nothing that was acknowledged, and the engine finds
// the way to it by itself.
func TestFailover(t *testing.T) {
	primary := pgtest.Start(t)
	standby := primary.StartStandby(t)
	url := pgtest.URLOf(primary.NewDatabase(t), primary, standby)
	// The new primary has no standby of its own yet: NeedStandby would refuse it.
	e := openURL(t, url)
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(500)
	primary.Kill()
	standby.Promote(t)
	load.Await(500)
	load.Check(e)
}

// A host of the URL whose machine is gone, and which says nothing, is passed over.
func TestHostThatSaysNothing(t *testing.T) {
	server := pgtest.Shared(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	there := fmt.Sprintf("127.0.0.1:%d", server.Port)
	e := openURL(t, strings.Replace(server.NewDatabase(t), there, gone.Addr().String()+","+there, 1))
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(100)
	awaitWritable(t, e)
	load.Check(e)
}

func TestConnectionsCutUnderLoad(t *testing.T) {
	server := pgtest.Shared(t)
	proxy := pgtest.NewProxy(t, server)
	database := server.NewDatabase(t)
	e := openURL(t, proxy.URL(database))
	load := storetest.StartLoad(t, e, loadWriters)
	for _, fault := range []pgtest.Fault{pgtest.None, pgtest.LoseAnswer, pgtest.LoseRequest, pgtest.None, pgtest.LoseAnswer} {
		load.Await(100)
		failed := load.Failed()
		if fault == pgtest.None {
			proxy.Cut()
			continue
		}
		proxy.Set(fault)
		for end := time.Now().Add(20 * time.Second); load.Failed() == failed && time.Now().Before(end); time.Sleep(time.Millisecond) {
		}
		proxy.Set(pgtest.None)
	}
	load.Await(100)
	load.Check(openURL(t, database))
}

// A failed write says nothing about what is stored; to claim and to read does.
func TestUnknownOutcomes(t *testing.T) {
	server := pgtest.Shared(t)
	for _, c := range []struct {
		name  string
		fault pgtest.Fault
		done  bool
	}{
		{"Lost", pgtest.LoseRequest, false},
		{"WrittenButReportedAsFailed", pgtest.LoseAnswer, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxy := pgtest.NewProxy(t, server)
			database := server.NewDatabase(t)
			e, d := openURL(t, proxy.URL(database)), storetest.NewDoc(t)
			claim, err := e.Claim(t.Context(), d.Handle)
			if err != nil {
				t.Fatal(err)
			}
			for head := range uint64(5) { // the statement is prepared, and alone on the wire
				if err := e.Append(t.Context(), d.Append(claim, head, head+1, "x")); err != nil {
					t.Fatal(err)
				}
			}
			proxy.Set(c.fault)
			err = e.Append(t.Context(), d.Append(claim, 5, 6, "x"))
			proxy.Set(pgtest.None)
			if err == nil || errors.Is(err, store.ErrFenced) {
				t.Errorf("got %v, want an unknown outcome", err)
			}
			// Both kinds look alike to us: only what is there tells.
			again, err := openURL(t, database).Claim(t.Context(), d.Handle)
			want := uint64(5)
			if c.done {
				want = 6
			}
			if err != nil || again.Head != want || again.Term != claim.Term+1 {
				t.Errorf("claim: %+v, %v; want head %d and term %d", again, err, want, claim.Term+1)
			}
		})
	}
}

// A document that somebody holds costs its own appends and not those of others.
func TestLockedDocument(t *testing.T) {
	e := openNew(t)
	held, other := storetest.NewDoc(t), storetest.NewDoc(t)
	heldClaim, err := e.Claim(t.Context(), held.Handle)
	if err != nil {
		t.Fatal(err)
	}
	otherClaim, err := e.Claim(t.Context(), other.Handle)
	if err != nil {
		t.Fatal(err)
	}
	locker, err := pgx.Connect(t.Context(), e.o.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close(context.Background())
	tx, err := locker.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT 1 FROM documents WHERE document = $1 FOR UPDATE", held.Handle[:]); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- e.Append(context.Background(), held.Append(heldClaim, 0, 1, "x")) }()
	for head := range uint64(20) {
		if err := e.Append(t.Context(), other.Append(otherClaim, head, head+1, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; codeOf(err) != lockNotAvailable {
		t.Errorf("append to the held document: %v, want it given up", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, err := e.Claim(t.Context(), held.Handle); err != nil || again.Head != 0 {
		t.Errorf("claim: %+v, %v; want head 0", again, err)
	}
}

// A statement that takes too long is ended, and so is the wait for a server that does not
// answer at all. Neither is an acknowledgement.
func TestNothingWaitsForEver(t *testing.T) {
	server := pgtest.Shared(t)
	proxy := pgtest.NewProxy(t, server)
	database := server.NewDatabase(t)
	e, d := openOn(t, Options{URL: proxy.URL(database), StatementTimeout: time.Second}), storetest.NewDoc(t)
	claim := fill(t, e, d, 3)
	locker, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close(context.Background())
	tx, err := locker.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE records"); err != nil {
		t.Fatal(err)
	}
	const queryCanceled = "57014"
	if err := e.Append(t.Context(), d.Append(claim, 3, 4, "x")); codeOf(err) != queryCanceled {
		t.Errorf("append to a locked table: %v, want it ended", err)
	}
	if err := e.Writable(t.Context()); err == nil {
		t.Error("the store says it is writable just after an append failed")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := e.Claim(t.Context(), d.Handle); err != nil || c.Head != 3 {
		t.Fatalf("claim: %+v, %v; want head 3", c, err)
	}

	load := storetest.StartLoad(t, e, loadWriters) // for more connections than one
	load.Await(10 * loadWriters)
	load.Stop()
	claim, err = e.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	d.NewSegment(claim.Term, 4)
	next := d.Append(claim, 3, 4, "x")
	proxy.Set(pgtest.Silence)
	for _, connection := range []string{"InUse", "Idle"} { // the second time on one that was idle, and is asked whether it lives
		ended := make(chan error, 1)
		go func() { ended <- e.Append(context.Background(), next) }()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: an append was acknowledged by nobody", connection)
			}
		case <-time.After(time.Minute):
			proxy.Set(pgtest.None)
			proxy.Cut() // else the engine does not close
			t.Fatalf("%s: a server that does not answer is waited for longer than a minute", connection)
		}
	}
	if err := e.Writable(t.Context()); err == nil {
		t.Error("a store whose database does not answer says it is writable")
	}
	proxy.Set(pgtest.None)
	proxy.Cut()
	for end := time.Now().Add(30 * time.Second); e.Writable(t.Context()) != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the store does not become writable again")
		}
	}
}

// A server that gives up its wait for the standby commits and reports success, with a
// warning: that is no acknowledgement.
func TestCommitWithoutStandbyIsNotAcknowledged(t *testing.T) {
	server := pgtest.Start(t)
	e, d := openURL(t, server.NewDatabase(t)), storetest.NewDoc(t)
	claim, err := e.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	server.Exec(t, "SELECT pg_reload_conf()")
	// The server takes the setting in a moment later: appends before that are acknowledged.
	for head := uint64(0); err == nil && head < 1000; head++ {
		ended := make(chan error, 1)
		go func() { ended <- e.Append(context.Background(), d.Append(claim, head, head+1, "x")) }()
		for waiting := true; waiting; {
			select {
			case err = <-ended:
				waiting = false
			case <-time.After(20 * time.Millisecond):
				server.Exec(t, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
			}
		}
	}
	if err == nil || !strings.Contains(err.Error(), "may not be on its standby") {
		t.Errorf("got %v, want it not acknowledged", err)
	}
}

func TestFenceIsNotRetried(t *testing.T) {
	for _, err := range []error{store.ErrFenced, store.ErrConflict, context.Canceled, weak{"x"}} {
		if notDone(err) || unreachable(err) {
			t.Errorf("%v would be tried again", err)
		}
	}
}
