package custody

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// fakeVault is a key store whose answers a test switches. It wraps by putting the
// version in front, so that a test can also play the attacker with the public key.
type fakeVault struct {
	mu       sync.Mutex
	latest   string
	versions map[string]keystore.Key
	refuse   map[string]error // by "op", "op version", "op identity" or "*"; the first one set counts
	lenient  bool             // unwrap works though get says that it should not
	onWrap   func()           // called once, in the next wrap
	lieAfter int              // from this wrap on, counted from 1, something else is wrapped; 0: never
	wraps    int
	hang     bool // calls ignore their context until hang is taken back
	purged   bool // what is not found was not deleted but purged
	release  chan struct{}
	calls    []string // "reason op version identity"; reason is not known here
}

var hosts = keystore.Hosts{Suffixes: []string{"vault.example.test"}}

const (
	identityA = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/a"
	identityB = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/b"
	version1  = "11111111111111111111111111111111"
	version2  = "22222222222222222222222222222222"
)

func newFakeVault() *fakeVault {
	f := &fakeVault{versions: map[string]keystore.Key{}, refuse: map[string]error{}, release: make(chan struct{})}
	f.addVersion(version1)
	return f
}

func (f *fakeVault) addVersion(v string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latest = v
	f.versions[v] = keystore.Key{ID: keyURL(v), Type: "RSA", Bits: 3072, Operations: []string{"wrapKey", "unwrapKey"}, Enabled: true, RecoveryLevel: "Recoverable"}
}

// change changes a version's attributes.
func (f *fakeVault) change(v string, by func(*keystore.Key)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.versions[v]
	by(&k)
	f.versions[v] = k
}

// set makes calls fail; nil lets them succeed again.
func (f *fakeVault) set(what string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.refuse, what)
	if err != nil {
		f.refuse[what] = err
	}
}

func (f *fakeVault) count(part string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.Contains(c, part) {
			n++
		}
	}
	return n
}

// as returns the vault as an identity sees it.
func (f *fakeVault) as(identity string) keystore.Client { return &fakeClient{f, identity} }

type fakeClient struct {
	f        *fakeVault
	identity string
}

func (c *fakeClient) enter(op string, key keystore.URL) (keystore.Key, error) {
	c.f.mu.Lock()
	if c.f.hang {
		release := c.f.release
		c.f.mu.Unlock()
		<-release
		c.f.mu.Lock()
	}
	defer c.f.mu.Unlock()
	v := key.Version()
	if v == "" {
		v = c.f.latest
	}
	c.f.calls = append(c.f.calls, fmt.Sprintf("%s %s %s", op, v, c.identity))
	for _, what := range []string{"*", op, op + " " + v, op + " " + c.identity} {
		if err := c.f.refuse[what]; err != nil {
			var e *keystore.Error
			if errors.As(err, &e) {
				with := *e
				with.Op, with.Key = op, key
				return keystore.Key{}, &with
			}
			return keystore.Key{}, err
		}
	}
	k, ok := c.f.versions[v]
	if !ok {
		return k, &keystore.Error{Class: keystore.NotFound, Op: op, Key: key, Status: 404, Code: "KeyNotFound"}
	}
	if op != opGet && !k.Enabled && !c.f.lenient {
		return k, &keystore.Error{Class: keystore.Disabled, Op: op, Key: key, Status: 403, Code: "KeyDisabled"}
	}
	if op == opWrap && unfitForWrap(k) {
		return k, &keystore.Error{Class: keystore.Expired, Op: op, Key: key, Status: 403, Code: "KeyExpired"}
	}
	k.RequestID = "r-get"
	return k, nil
}

func unfitForWrap(k keystore.Key) bool {
	now := time.Now()
	return !k.Expires.IsZero() && !now.Before(k.Expires) || now.Before(k.NotBefore)
}

func (c *fakeClient) Describe(_ context.Context, key keystore.URL) (keystore.Key, error) {
	return c.enter(opGet, key)
}

func (c *fakeClient) Wrap(_ context.Context, key keystore.URL, material []byte) (keystore.Wrapped, error) {
	k, err := c.enter(opWrap, key)
	if err != nil {
		return keystore.Wrapped{}, err
	}
	c.f.mu.Lock()
	hook := c.f.onWrap
	c.f.onWrap = nil
	c.f.wraps++
	if c.f.lieAfter > 0 && c.f.wraps >= c.f.lieAfter {
		material = make([]byte, 32)
	}
	c.f.mu.Unlock()
	if hook != nil {
		hook()
	}
	return keystore.Wrapped{ID: k.ID, Algorithm: keystore.Algorithm, Value: fakeWrap(k.ID.Version(), material), RequestID: "r-wrap"}, nil
}

// fakeWrap is what anyone with the public key can do.
func fakeWrap(version string, material []byte) []byte {
	return append([]byte(version), material...)
}

func (c *fakeClient) Unwrap(_ context.Context, w keystore.Wrapped) ([]byte, string, error) {
	if _, err := c.enter(opUnwrap, w.ID); err != nil {
		return nil, "", err
	}
	material, ok := bytes.CutPrefix(w.Value, []byte(w.ID.Version()))
	if !ok {
		return nil, "", &keystore.Error{Class: keystore.Invalid, Op: opUnwrap, Key: w.ID, Status: 400, Code: "BadParameter"}
	}
	return slices.Clone(material), "r-unwrap", nil
}

func (c *fakeClient) Deleted(_ context.Context, key keystore.URL) (keystore.Deleted, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.f.purged {
		return keystore.Deleted{}, &keystore.Error{Class: keystore.NotFound, Op: opGetDeleted, Key: key, Status: 404, Code: "KeyNotFound"}
	}
	return keystore.Deleted{Purge: time.Now().Add(24 * time.Hour)}, nil
}

func keyURL(version string) keystore.URL {
	u, err := keystore.ParseURL("https://contoso.vault.example.test/keys/kek", hosts)
	if err != nil {
		panic(err)
	}
	return u.WithVersion(version)
}

func refused(c keystore.Class, status int, code string) error {
	return &keystore.Error{Class: c, Status: status, Code: code}
}

// The answers that tests use.
var (
	errDisabled = refused(keystore.Disabled, 403, "KeyDisabled")
	errDenied   = refused(keystore.Denied, 403, "AccessDenied")
	errFirewall = refused(keystore.Firewall, 403, "ForbiddenByFirewall")
	errStrange  = refused(keystore.DeniedUnclassified, 403, "Teapot")
	errNotFound = refused(keystore.NotFound, 404, "KeyNotFound")
	errNoHost   = refused(keystore.VaultNotFound, 0, "")
	errNoVault  = refused(keystore.VaultNotFound, 404, "VaultNotFound")
	errIdentity = refused(keystore.IdentityFailed, 0, "")
	errSilent   = refused(keystore.Unreachable, 0, "")
	errServer   = refused(keystore.Unreachable, 503, "")
	errThrottle = refused(keystore.Throttled, 429, "Throttled")
)

// errKilled: the process that wanted to write is dead.
var errKilled = errors.New("killed")

// rowStore keeps rows in memory. Faults come in two kinds: a write that is lost, and
// one that is made but reported as failed.
type rowStore struct {
	store.Store // logs and objects are not custody's

	mu       sync.Mutex
	rows     map[store.RowKey]store.Row
	failNext error // the next write fails with it; not one of the log of key uses
	failUses error // every write of the log of key uses fails with it
	persist  bool  // and is made nevertheless
	failRead error // every read fails with it
	killAt   int   // from the write with this number on, counted from 1, none is made; 0: never
	writes   int
}

// fail makes the next write fail.
func (s *rowStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failNext = err
}

func newRowStore() *rowStore { return &rowStore{rows: map[store.RowKey]store.Row{}} }

// count is how many rows there are, but for the log of key uses.
func (s *rowStore) count() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.rows {
		if key.Table != tableKeyUses {
			n++
		}
	}
	return n
}

// at and put reach behind the store's back.
func (s *rowStore) at(key store.RowKey) store.Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[key]
}

func (s *rowStore) put(rows ...store.Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		s.rows[r.RowKey] = r
	}
}

// clone is a copy of the disk.
func (s *rowStore) clone() *rowStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newRowStore()
	for k, r := range s.rows {
		c.rows[k] = r
	}
	return c
}

func (s *rowStore) GetRow(_ context.Context, key store.RowKey) (store.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failRead != nil {
		return store.Row{}, s.failRead
	}
	r, ok := s.rows[key]
	if !ok {
		return store.Row{}, store.ErrNotFound
	}
	return r, nil
}

func (s *rowStore) ListRows(_ context.Context, t store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []store.Row
	for k, r := range s.rows {
		if k.Table == t && k.Partition == partition && bytes.Compare(k.Name[:], after[:]) > 0 {
			found = append(found, r)
		}
	}
	sort.Slice(found, func(i, j int) bool { return bytes.Compare(found[i].Name[:], found[j].Name[:]) < 0 })
	return found[:min(limit, len(found))], s.failRead
}

func (s *rowStore) WriteRows(_ context.Context, writes []store.RowWrite) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes++; s.killAt > 0 && s.writes >= s.killAt {
		return errKilled
	}
	fail := s.failNext
	if writes[0].Table == tableKeyUses {
		fail = s.failUses
	} else {
		s.failNext = nil
	}
	if fail != nil && !s.persist {
		return fail
	}
	for _, w := range writes {
		if !w.Expect.Met(s.rows[w.RowKey].Revision) {
			return store.ErrConflict
		}
	}
	for _, w := range writes {
		if w.Value == nil {
			delete(s.rows, w.RowKey)
			continue
		}
		s.rows[w.RowKey] = store.Row{RowKey: w.RowKey, Value: *w.Value, Revision: s.rows[w.RowKey].Revision + 1}
	}
	return fail
}

func (s *rowStore) ScanRows(_ context.Context, after store.RowKey, limit int) ([]store.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := func(a, b store.RowKey) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), bytes.Compare(a.Partition[:], b.Partition[:]), bytes.Compare(a.Name[:], b.Name[:]))
	}
	var found []store.Row
	for k, r := range s.rows {
		if order(k, after) > 0 {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b store.Row) int { return order(a.RowKey, b.RowKey) })
	return found[:min(limit, len(found))], s.failRead
}

func (s *rowStore) ResealRows(_ context.Context, rows []store.Resealed) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes++; s.killAt > 0 && s.writes >= s.killAt {
		return 0, errKilled
	}
	for _, one := range rows {
		if r, ok := s.rows[one.RowKey]; ok && bytes.Equal(r.Value.Bytes(), one.Old.Bytes()) {
			r.Value = one.New
			s.rows[one.RowKey] = r
			n++
		}
	}
	return n, nil
}

// logBook is a log that several write at once.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// fixture is a keeper over a fake vault and a store in memory.
type fixture struct {
	t          *testing.T
	vault      *fakeVault
	store      *rowStore
	service    envelope.ServiceKey
	log        *logBook
	metrics    *prometheus.Registry                  // of this start
	made       int                                   // resources
	under      store.Store                           // in front of store, from the next start on; nil: nothing
	anchorFile Anchors                               // nil: none
	keyStore   func(keystore.Client) keystore.Client // around the vault's; nil: nothing
	secret     *memoryFile                           // of the retention key; nil: there is none
	*Keeper
}

// retentionDays is short: each day of fake time is thousands of probes.
const retentionDays = 1

// memoryFile is a RetentionFile.
type memoryFile struct{ content []byte }

func (m *memoryFile) Read() ([]byte, error) {
	if m.content == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(m.content), nil
}

func (m *memoryFile) Replace(b []byte) error {
	m.content = bytes.Clone(b)
	return nil
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, vault: newFakeVault(), store: newRowStore(), service: envelope.NewServiceKey(), log: &logBook{}}
	f.start()
	t.Cleanup(func() { f.Keeper.Close() })
	return f
}

func (f *fixture) start() {
	f.metrics = prometheus.NewRegistry()
	var st store.Store = f.store
	if f.under != nil {
		st = f.under
	}
	var retention *Retention
	if f.secret != nil {
		var err error
		if retention, err = OpenRetention(context.Background(), f.store, f.service, f.secret, retentionDays); err != nil {
			f.t.Fatalf("open retention: %v", err)
		}
	}
	clients := f.vault.as
	if f.keyStore != nil {
		clients = func(identity string) keystore.Client { return f.keyStore(f.vault.as(identity)) }
	}
	f.Keeper = New(Config{
		Metrics: f.metrics,
		Store:   st, Service: f.service, Retention: retention, Anchors: f.anchorFile, KeyStore: clients, Hosts: hosts,
		Log: slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
}

// restart is a new process over the same disk.
func (f *fixture) restart() {
	f.Keeper.Close()
	f.start()
}

var pinned = Settings{Key: keyURL(version1), Identity: identityA}

// resource makes one under s.
func (f *fixture) resource(s Settings) envelope.ResourceID {
	f.t.Helper()
	f.made++
	r := envelope.ResourceID{byte(f.made), 7}
	if err := f.Create(f.t.Context(), r, s); err != nil {
		f.t.Fatalf("create: %v", err)
	}
	return r
}

// document makes one and stores it.
func (f *fixture) document(r envelope.ResourceID) *Document {
	f.t.Helper()
	d, err := f.NewDocument(f.t.Context(), r)
	if err != nil {
		f.t.Fatalf("new document: %v", err)
	}
	if err := d.Create(f.t.Context()); err != nil {
		f.t.Fatalf("store document key: %v", err)
	}
	return d
}

func mustSeal(t *testing.T, d *Document, id, text string) store.Object {
	t.Helper()
	o, err := d.SealObject(envelope.KindObject, id, []byte(text))
	if err != nil {
		t.Fatalf("seal %s: %v", id, err)
	}
	return o
}

func mustOpen(t *testing.T, d *Document, id string, o store.Object, want string) {
	t.Helper()
	got, err := d.OpenObject(envelope.KindObject, id, o.Value)
	if err != nil || string(got) != want {
		t.Fatalf("open %s = %q, %v; want %q", id, got, err, want)
	}
}

// wantUnusable checks that err is an *UnusableError for the reason.
func wantUnusable(t *testing.T, err error, reason string) *UnusableError {
	t.Helper()
	var u *UnusableError
	if !errors.As(err, &u) || u.Reason != reason {
		t.Fatalf("got error %v, want UnusableError %s", err, reason)
	}
	return u
}
