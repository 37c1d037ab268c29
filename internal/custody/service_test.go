package custody

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// keyFile is a ServiceKeyFile. A kill of the store's process is one of its own, too.
type keyFile struct {
	content, last []byte
	disk          *rowStore
}

func (k *keyFile) Changed() (envelope.ServiceKey, bool, error) {
	if bytes.Equal(k.content, k.last) {
		return envelope.ServiceKey{}, false, nil
	}
	k.last = k.content
	key, err := envelope.ParseServiceKey(k.content)
	return key, err == nil, err
}

func (k *keyFile) Save(key envelope.ServiceKey) error {
	k.disk.mu.Lock()
	defer k.disk.mu.Unlock()
	if k.disk.writes++; k.disk.killAt > 0 && k.disk.writes >= k.disk.killAt {
		return errKilled
	}
	return key.Use(func(b []byte) error {
		k.content = bytes.Clone(b)
		k.last = k.content
		return nil
	})
}

// owner is a fixture whose service key is in a file.
type owner struct {
	*fixture
	file *keyFile
	keys *ServiceKeys

	lacking []string // nodes that have not the next version
	follows bool     // another node leads
}

func newOwner(t *testing.T) *owner {
	t.Helper()
	o := &owner{fixture: newRetained(t)}
	o.file = &keyFile{disk: o.store}
	if err := o.file.Save(o.service); err != nil {
		t.Fatal(err)
	}
	if err := o.openKeys(); err != nil {
		t.Fatal(err)
	}
	if err := o.keys.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *owner) openKeys() (err error) {
	o.keys, err = OpenServiceKeys(o.t.Context(), ServiceKeysConfig{
		Store: o.store, Service: o.service, File: o.file, RetentionDays: retentionDays,
		Lacking: func(string) []string { return o.lacking }, Leads: func() bool { return !o.follows }, Log: slog.New(slog.NewTextHandler(o.log, nil)),
	})
	return err
}

// restart is a new process: it knows what is in the file.
func (o *owner) restart() {
	o.t.Helper()
	o.Keeper.Close()
	var err error
	if o.service, err = envelope.ParseServiceKey(o.file.content); err != nil {
		o.t.Fatal(err)
	}
	o.file.last = o.file.content
	if err := o.openKeys(); err != nil {
		o.t.Fatalf("open the service key: %v", err)
	}
	if err := o.keys.Begin(o.t.Context()); err != nil {
		o.t.Fatal(err)
	}
	o.fixture.start()
}

// settle has everything done that a rotation needs.
func (o *owner) settle() error {
	for range 5 {
		if err := o.keys.turn(o.t.Context(), o.Keeper); err != nil {
			return err
		}
		if _, _, done := o.keys.Status(); done {
			return nil
		}
	}
	return errors.New("values are still under an older version")
}

// under counts the rows that a version opens.
func (o *owner) under(number uint32) int {
	only, ok := o.service.Version(number)
	if !ok {
		return 0
	}
	n := 0
	for key, row := range o.store.clone().rows {
		if _, err := only.OpenRow(string(key.Table), key.Partition, key.Name, row.Value); err == nil && key.Table != tableServiceKeys {
			n++
		}
	}
	return n
}

func TestServiceKeyIsRotated(t *testing.T) {
	o := newOwner(t)
	own, customers := o.resource(Settings{}), o.resource(pinned)
	d := o.document(own)
	text := mustSeal(t, d, "o", "text")
	other := o.document(customers)
	before := o.record(own)
	revisions := map[store.RowKey]uint64{}
	for key, row := range o.store.clone().rows {
		revisions[key] = row.Revision
	}
	if lacking, err := o.keys.Rotate(t.Context()); err != nil || lacking != nil {
		t.Fatalf("rotate: %v, %v", lacking, err)
	}
	if err := o.settle(); err != nil {
		t.Fatal(err)
	}
	if n := o.under(1); n > 0 {
		t.Errorf("%d rows are still under the first version", n)
	}
	if rec := o.record(own); rec.KeyID != "service/2" || !bytes.Equal(rec.Commitment, before.Commitment) || rec.Generation != 2 {
		t.Errorf("the root key's record: %+v", rec)
	}
	if rec := o.record(customers); rec.Generation != 1 {
		t.Error("the root key of a customer was rewrapped")
	}
	mustOpen(t, d, "o", text, "text") // it was open all the time
	mustSeal(t, d, "p", "more")
	for key, row := range o.store.clone().rows {
		if was := revisions[key]; was != 0 && row.Revision != was && key.Table != tableRootKeys && key.Table != tableKeyUses {
			t.Errorf("a row of %s has revision %d, and had %d: its next writer would be told that it was changed", key.Table, row.Revision, was)
		}
	}
	all, _, _ := o.keys.Status()
	if len(all) != 2 || all[0].State != ServiceKeyOpening || all[1].State != ServiceKeySealing || all[0].Until.IsZero() {
		t.Errorf("status: %+v", all)
	}
	o.restart()
	mustOpen(t, o.open(own, d.Handle()), "o", text, "text")
	o.open(customers, other.Handle())
	if s := o.Status(own); s.KeyID != "service/2" {
		t.Errorf("under %s", s.KeyID)
	}
}

// How old the newest version is, and for how long something has been under an older one, is
// measured on each node, the one that does not lead among them.
func TestServiceKeyIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(t)
		o.resource(Settings{})
		registry := prometheus.NewRegistry()
		other, err := OpenServiceKeys(t.Context(), ServiceKeysConfig{
			Store: o.store, Service: o.service, File: &keyFile{content: o.file.content, last: o.file.content, disk: o.store},
			RetentionDays: retentionDays, Leads: func() bool { return false }, Log: slog.New(slog.DiscardHandler), Metrics: registry,
		})
		if err != nil {
			t.Fatal(err)
		}
		measures := func(when string, age, lag time.Duration) {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for _, f := range families {
				got[f.GetName()] = math.Floor(f.GetMetric()[0].GetGauge().GetValue()) // a pass pauses between pages
			}
			want := map[string]float64{"tidelock_custody_service_key_age_seconds": age.Seconds(), "tidelock_custody_service_key_lag_seconds": lag.Seconds()}
			if !maps.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", when, got, want)
			}
		}
		look := func() {
			t.Helper()
			if err := other.turn(t.Context(), o.Keeper); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * day)
		measures("before a rotation", 2*day, 0)
		if _, err := o.keys.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		look()
		time.Sleep(2 * time.Hour)
		measures("while values are under the version before", 2*time.Hour, 2*time.Hour)
		if err := o.settle(); err != nil {
			t.Fatal(err)
		}
		look()
		time.Sleep(time.Hour)
		measures("when nothing is", 3*time.Hour, 0)
		o.Keeper.Close()
	})
}

// A process that is killed at any step of a rotation leaves a file and a store that open,
// and doing it again ends with everything under one version.
func TestServiceKeyKillAtEachStep(t *testing.T) {
	for step := 1; ; step++ {
		o := newOwner(t)
		own, customers := o.resource(Settings{}), o.resource(versionless)
		d := o.document(own)
		text := mustSeal(t, d, "o", "text")
		other := o.document(customers)

		o.store.mu.Lock()
		o.store.writes, o.store.killAt = 0, step
		o.store.mu.Unlock()
		_, err := o.keys.Rotate(t.Context())
		if err == nil {
			err = o.settle()
		}
		o.Keeper.Close()
		o.store.mu.Lock()
		killed := o.store.writes >= step
		o.store.killAt = 0
		o.store.mu.Unlock()
		if !killed && err != nil {
			t.Fatalf("not killed, and %v", err)
		}

		o.restart()
		mustOpen(t, o.open(own, d.Handle()), "o", text, "text")
		o.open(customers, other.Handle())
		if _, err := o.KeyUses(t.Context(), 0, 100); err != nil {
			t.Errorf("step %d: key uses: %v", step, err)
		}
		if o.service.Sealing() == 1 {
			if _, err := o.keys.Rotate(t.Context()); err != nil {
				t.Fatalf("step %d: going on: %v", step, err)
			}
		}
		if err := o.settle(); err != nil {
			t.Fatalf("step %d: going on: %v", step, err)
		}
		if n := o.under(1); n > 0 || o.record(own).KeyID != "service/2" || len(o.service.Versions()) != 2 {
			t.Errorf("step %d: %d rows under the first version, the root key under %s, %d versions", step, n, o.record(own).KeyID, len(o.service.Versions()))
		}
		o.restart()
		mustOpen(t, o.open(own, d.Handle()), "o", text, "text")
		if !killed {
			t.Logf("killed at each of %d steps", step-1)
			return
		}
	}
}

// An older version stays while copies of the data from before are good, and goes then: from
// the rows, and only then from the file, whenever the process is killed between the two.
func TestServiceKeyVersionIsDestroyed(t *testing.T) {
	for step := 1; ; step++ {
		killed := false
		synctest.Test(t, func(t *testing.T) {
			o := newOwner(t)
			own := o.resource(Settings{})
			h := o.document(own).Handle()
			if _, err := o.keys.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := o.settle(); err != nil {
				t.Fatal(err)
			}
			copied := o.store.clone()
			o.Keeper.Close()
			time.Sleep((retentionDays+1)*day - time.Minute)
			o.restart()
			if err := o.settle(); err != nil || len(o.service.Versions()) != 2 {
				t.Fatalf("too early: %d versions, %v", len(o.service.Versions()), err)
			}
			o.Keeper.Close()
			time.Sleep(2 * time.Minute)
			o.restart()
			o.store.mu.Lock()
			o.store.writes, o.store.killAt = 0, step
			o.store.mu.Unlock()
			_ = o.keys.turn(t.Context(), o.Keeper)
			o.Keeper.Close()
			o.store.mu.Lock()
			killed = o.store.writes >= step
			o.store.killAt = 0
			o.store.mu.Unlock()

			o.restart()
			o.open(own, h)
			for range 3 {
				if err := o.keys.turn(t.Context(), o.Keeper); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			if v := o.service.Versions(); len(v) != 1 || v[0].Number != 2 {
				t.Errorf("step %d: versions %v", step, v)
			}
			o.restart()
			o.open(own, h)
			if step > 1 {
				return
			}
			// A copy from before is refused with the version that it needs.
			older := &owner{fixture: &fixture{t: t, vault: o.vault, store: copied, service: o.service, log: &logBook{}, secret: o.secret}, file: o.file}
			if err := older.openKeys(); !errors.Is(err, ErrServiceKeyVersion) || !strings.Contains(err.Error(), "version 1") {
				t.Errorf("a copy from before: %v, want ErrServiceKeyVersion that names version 1", err)
			}
		})
		if !killed {
			t.Logf("killed at each of %d steps", step-1)
			return
		}
	}
}

// A row that opens under no version may be under an older one that somebody else has: none goes.
func TestServiceKeyVersionStaysWhileARowDoesNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(t)
		o.resource(Settings{})
		if _, err := o.keys.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := o.settle(); err != nil {
			t.Fatal(err)
		}
		key := store.RowKey{Table: "some-table", Name: o.service.Name("some-table", "id")}
		s, err := envelope.NewServiceKey().SealRow(string(key.Table), key.Partition, key.Name, []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		o.store.put(store.Row{RowKey: key, Value: s, Revision: 1})
		o.Keeper.Close()
		time.Sleep((retentionDays + 2) * day)
		o.restart()
		for range 3 {
			if err := o.keys.turn(t.Context(), o.Keeper); err != nil {
				t.Fatal(err)
			}
		}
		if _, left, done := o.keys.Status(); len(o.service.Versions()) != 2 || left != 1 || done {
			t.Errorf("%d versions, %d values left, done %t; want 2, 1, false", len(o.service.Versions()), left, done)
		}
	})
}

// Nodes have files of their own. A new version seals only when all have it, and who comes
// without it is told which one it lacks.
func TestServiceKeyOnSeveralNodes(t *testing.T) {
	a := newOwner(t)
	own := a.resource(Settings{})
	h := a.document(own).Handle()
	join := func(file []byte) (*owner, error) {
		key, err := envelope.ParseServiceKey(file)
		if err != nil {
			t.Fatal(err)
		}
		n := &owner{fixture: &fixture{t: t, vault: a.vault, store: a.store, service: key, log: &logBook{}, secret: a.secret}, follows: true}
		n.file = &keyFile{content: bytes.Clone(file), last: file, disk: a.store}
		return n, n.openKeys()
	}
	before := bytes.Clone(a.file.content)
	b, err := join(before)
	if err != nil {
		t.Fatal(err)
	}
	b.fixture.start()
	b.made = 100 // resources of its own
	defer func() { b.Keeper.Close() }()

	a.lacking = []string{"http://b"}
	for range 2 {
		if lacking, err := a.keys.Rotate(t.Context()); err != nil || len(lacking) != 1 || a.service.Sealing() != 1 {
			t.Fatalf("rotate without the other: lacking %v, sealing %d, %v", lacking, a.service.Sealing(), err)
		}
	}
	if v, _, _ := a.keys.Status(); len(v) != 2 || v[1].State != ServiceKeyStaged || !v[1].Since.IsZero() {
		t.Errorf("status: %+v", v)
	}
	if slices.Contains(b.keys.IDs(), a.keys.IDs()[1]) {
		t.Fatal("the other node has the version already")
	}
	b.file.content = bytes.Clone(a.file.content) // the operator copies it
	if err := b.keys.turn(t.Context(), b.Keeper); err != nil || !slices.Contains(b.keys.IDs(), a.keys.IDs()[1]) || b.service.Sealing() != 1 {
		t.Fatalf("after the copy: %v, sealing %d, %v", b.keys.IDs(), b.service.Sealing(), err)
	}
	a.lacking = nil
	if lacking, err := a.keys.Rotate(t.Context()); err != nil || lacking != nil {
		t.Fatalf("rotate: %v, %v", lacking, err)
	}
	// Until the other one looks, it seals under the version before, and opens both.
	late := b.resource(Settings{})
	if err := a.settle(); err != nil {
		t.Fatal(err)
	}
	b.open(own, h)
	if err := b.keys.turn(t.Context(), b.Keeper); err != nil || b.service.Sealing() != 2 {
		t.Fatalf("the other node seals under %d, %v", b.service.Sealing(), err)
	}
	if err := a.Admit(t.Context(), late); err != nil {
		t.Error(err)
	}
	// What the other one wrote late is found, and both know that nothing is left.
	if _, left, done := b.keys.Status(); !done || left != 0 {
		t.Errorf("the node that does not lead: done %v, left %d", done, left)
	}

	if _, err := join(before); !errors.Is(err, ErrServiceKeyVersion) || !strings.Contains(err.Error(), "version 2 ("+a.keys.IDs()[1]) {
		t.Errorf("a node without the version: %v, want ErrServiceKeyVersion that names it", err)
	}
	// One that runs goes on with what it has, and does not take another key.
	b.file.content = make([]byte, 32)
	if err := b.keys.turn(t.Context(), b.Keeper); err == nil {
		t.Error("another key was taken")
	}
	b.open(own, h)
}

func TestServiceKeyCannotBeSaved(t *testing.T) {
	o := newOwner(t)
	o.resource(Settings{})
	o.store.mu.Lock()
	o.store.killAt = o.store.writes + 1
	o.store.mu.Unlock()
	if _, err := o.keys.Rotate(t.Context()); !errors.Is(err, errKilled) {
		t.Errorf("got %v", err)
	}
	o.store.mu.Lock()
	o.store.killAt = 0
	o.store.mu.Unlock()
	if v := o.service.Versions(); len(v) != 1 || fmt.Sprint(o.service) != "[redacted]" {
		t.Errorf("versions after a failed rotation: %v", v)
	}
}

func TestBackupThatIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(t)
		o.resource(Settings{})
		copied := o.store.clone()
		o.Keeper.Close()
		verify := func() BackupNeeds {
			t.Helper()
			needs, err := VerifyBackup(t.Context(), copied, o.service, o.secret)
			if err != nil || len(needs.ServiceKeys) != 1 || !needs.ServiceKeys[0].Present || len(needs.Relays) != 1 || needs.Relays[0].KeyID != "service" {
				t.Fatalf("%+v, %v", needs, err)
			}
			return needs
		}
		if needs := verify(); needs.Relays[0].Problem != "" || needs.Relays[0].Day.IsZero() {
			t.Errorf("a copy of today: %+v", needs)
		}
		time.Sleep((retentionDays + 2) * day)
		o.restart() // the retention key moves on
		synctest.Wait()
		if needs := verify(); needs.Relays[0].Problem != errRetention.Error() || !needs.Oldest.After(needs.Relays[0].Day) {
			t.Errorf("an old copy: %+v", needs)
		}
		// Nor is one that needs a version of the service key that is gone.
		if needs, err := VerifyBackup(t.Context(), copied, envelope.NewServiceKey(), o.secret); err != nil || needs.ServiceKeys[0].Present || len(needs.Relays) != 0 {
			t.Errorf("without the version: %+v, %v", needs, err)
		}
	})
}
