package postgres

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// session is a connection of an administrator to the engine's database.
func session(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// awaitFailures waits until some calls of the load failed.
func awaitFailures(t *testing.T, load *storetest.Load, n int64) {
	t.Helper()
	from := load.Failed()
	for end := time.Now().Add(time.Minute); load.Failed() < from+n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no call fails")
		}
	}
}

// awaitRefused waits until the engine is not writable and says why: an append that still succeeds
// in between, as into the last page, speaks for it.
func awaitRefused(t *testing.T, e *Engine, why string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := e.Writable(t.Context())
		if err != nil && strings.Contains(err.Error(), why) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("writable: %v, want %q", err, why)
		}
	}
}

func awaitWritable(t *testing.T, e *Engine) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); e.Writable(t.Context()) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("30 s after the end of the fault: %v", e.Writable(t.Context()))
		}
	}
}

// Where the data has no room, writes fail and say so; reads go on, and so does everything once
// there is room.
func TestDiskFullOfData(t *testing.T) {
	disk := pgtest.SmallDisk(t, "48m")
	server := pgtest.Start(t)
	database := server.NewDatabaseOn(t, disk)
	e := openURL(t, database)
	d := storetest.NewDoc(t)
	claim := fill(t, e, d, 3)
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(100)

	admin := session(t, database)
	if _, err := admin.Exec(t.Context(), "CREATE TABLE filler (b text)"); err != nil {
		t.Fatal(err)
	}
	var full error
	for full == nil {
		_, full = admin.Exec(t.Context(), "INSERT INTO filler SELECT repeat('x', 700) FROM generate_series(1, 1000)")
	}
	if codeOf(full) != diskFull {
		t.Fatalf("filling the disk: %v", full)
	}
	awaitFailures(t, load, 2*loadWriters)
	d.NewSegment(claim.Term, 4)
	var refused error
	for head := uint64(3); refused == nil; head++ { // until the last page is full
		refused = e.Append(t.Context(), d.Append(claim, head, head+1, strings.Repeat("x", 2000)))
	}
	if codeOf(refused) != diskFull || !strings.Contains(refused.Error(), "append") || !strings.Contains(refused.Error(), "No space left") {
		t.Errorf("append: %v, want what is wrong", refused)
	}
	awaitRefused(t, e, "No space left")
	if _, err := e.Read(t.Context(), d.Handle, 1, 4, 0); err != nil {
		t.Errorf("read: %v", err)
	}

	if _, err := admin.Exec(t.Context(), "DROP TABLE filler"); err != nil {
		t.Fatal(err)
	}
	load.Await(100)
	awaitWritable(t, e)
	load.Check(e)
}

// Where the write-ahead log has no room PostgreSQL stops. What it had acknowledged is there when
// it is started with room again.
func TestDiskFullOfLog(t *testing.T) {
	disk := pgtest.SmallDisk(t, "160m")
	t.Setenv("TMPDIR", disk) // where the server's directory is made
	server := pgtest.Start(t)
	e := openURL(t, server.NewDatabase(t))
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(200)
	filler := filepath.Join(disk, "filler")
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=64k").CombinedOutput(); err == nil {
		t.Fatalf("the disk is not full: %s", out)
	}
	awaitFailures(t, load, loadWriters)
	awaitRefused(t, e, "")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	server.Kill() // what is left of it
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	load.Await(200)
	awaitWritable(t, e)
	load.Check(e)
}

// A database that takes no more connections is waited for, and named as the reason.
func TestOutOfConnections(t *testing.T) {
	server := pgtest.Start(t, "max_connections=14", "superuser_reserved_connections=1")
	database := server.NewDatabase(t)
	e := openURL(t, database)
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(100)
	// Others take every place, and the engine's connections end, as with a restart of a proxy.
	admin := session(t, database)
	var others []*pgx.Conn
	taken := func() bool {
		c, err := pgx.Connect(t.Context(), database)
		if err != nil {
			return codeOf(err) == tooManyConnections
		}
		others = append(others, c)
		return false
	}
	const end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidelock'"
	// A place is free a moment after who had it is not listed any more.
	for calm, deadline := 0, time.Now().Add(30*time.Second); calm < 10; time.Sleep(50 * time.Millisecond) {
		if _, err := admin.Exec(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		for !taken() {
		}
		var left int
		if err := admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidelock'").Scan(&left); err != nil {
			t.Fatal(err)
		}
		if calm++; left > 0 {
			calm = 0
		}
		if time.Now().After(deadline) {
			t.Fatalf("the engine keeps %d connections", left)
		}
	}
	awaitFailures(t, load, loadWriters)
	awaitRefused(t, e, "too many clients")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if again, err := Open(ctx, Options{URL: database}); err == nil {
		again.Close()
		t.Error("opened without a connection")
	} else if !strings.Contains(err.Error(), "too many clients") {
		t.Errorf("open: %v, want what is wrong", err)
	}
	for _, c := range others {
		c.Close(context.Background())
	}
	load.Await(100)
	awaitWritable(t, e)
	load.Check(e)
}

// An administrator who makes the database read-only stops writes, with the reason, and no reads.
func TestReadOnlyDatabase(t *testing.T) {
	server := pgtest.Start(t)
	database := server.NewDatabase(t)
	e := openURL(t, database)
	d := storetest.NewDoc(t)
	claim := fill(t, e, d, 3)
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(100)
	server.Exec(t, "ALTER SYSTEM SET default_transaction_read_only = on")
	server.Exec(t, "SELECT pg_reload_conf()")
	awaitFailures(t, load, loadWriters)
	awaitRefused(t, e, "read-only")
	d.NewSegment(claim.Term, 4)
	if err := e.Append(t.Context(), d.Append(claim, 3, 4, "x")); err == nil || errors.Is(err, store.ErrFenced) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("append: %v, want what is wrong", err)
	}
	server.Exec(t, "ALTER SYSTEM RESET default_transaction_read_only")
	server.Exec(t, "SELECT pg_reload_conf()")
	load.Await(100)
	awaitWritable(t, e)
	load.Check(e)
}

// Connections that are ended at the server in the middle of anything lose nothing.
func TestBackendsEndedUnderLoad(t *testing.T) {
	server := pgtest.Shared(t)
	database := server.NewDatabase(t)
	e := openURL(t, database)
	load := storetest.StartLoad(t, e, loadWriters)
	admin := session(t, database)
	for range 20 {
		load.Await(20)
		if _, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = 'tidelock' AND datname = current_database()`); err != nil {
			t.Fatal(err)
		}
	}
	load.Await(100)
	load.Check(e)
}
