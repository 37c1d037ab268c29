package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// fleet is some nodes on one real PostgreSQL: in this process, or, to be killed, in
// processes of their own. It comes with what the quickstart makes: a relay that follows its
// key.
type fleet struct {
	t        *testing.T
	database *pgtest.Server
	url      string
	dir      string
	port     string // of the management listeners: it is part of the vaults' names
	nodes    []*member

	relayPath string
	resource  envelope.ResourceID
	tenant    string
	key       string // signs the tenant's tokens
}

// member is a node of a fleet.
type member struct {
	*cli.Client
	profile cli.Profile
	relay   string // URL
	data    string

	app  *App   // nil: a process of its own
	stop func() // in order

	process *exec.Cmd
	orders  io.WriteCloser // see runMember
	answers *bufio.Reader
	ended   chan struct{}

	mu     sync.Mutex
	posted []time.Time // when its notices to the other nodes were in the database
}

// postedAfter is when the node's first notice from then on was in the database; zero: none was.
func (m *member) postedAfter(then time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.posted {
		if !at.Before(then) {
			return at
		}
	}
	return time.Time{}
}

// postingStore keeps when a node's notices were written.
type postingStore struct {
	store.Store
	m *member
}

func (s postingStore) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	err := s.Store.WriteRows(ctx, writes)
	if err == nil && slices.ContainsFunc(writes, func(w store.RowWrite) bool { return w.Table == "cluster-notices" }) {
		s.m.mu.Lock()
		s.m.posted = append(s.m.posted, time.Now())
		s.m.mu.Unlock()
	}
	return err
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	server := pgtest.Start(t)
	return newFleetOn(t, server, server.NewDatabase(t))
}

func newFleetOn(t *testing.T, server *pgtest.Server, database string) *fleet {
	t.Helper()
	f := &fleet{t: t, database: server, url: database, dir: t.TempDir()}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, f.port, _ = net.SplitHostPort(free.Addr().String())
	free.Close()

	first := f.node()
	seeded, err := first.Seed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.tenant = seeded.TenantID
	f.relayPath = "/subscriptions/" + first.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.FluidRelay/fluidRelayServers/quickstart"
	var keys struct{ Key1 string }
	if err := first.Do(t.Context(), "POST", f.relayPath+"/listKeys", released, nil, &keys); err != nil {
		t.Fatal(err)
	}
	f.key = keys.Key1
	found, ok, err := first.app.relays.Lookup(t.Context(), f.tenant)
	if err != nil || !ok {
		t.Fatalf("the quickstart's tenant: %t, %v", ok, err)
	}
	f.resource = found.Resource
	return f
}

// configure makes the configuration of one more node, with the secrets of the first.
func (f *fleet) configure(database string) Config {
	f.t.Helper()
	n := len(f.nodes) + 1
	data := filepath.Join(f.dir, fmt.Sprint("node", n))
	if n > 1 {
		if err := os.CopyFS(keysDir(data), os.DirFS(keysDir(f.nodes[0].data))); err != nil {
			f.t.Fatal(err)
		}
	}
	host := fmt.Sprintf("127.0.0.%d", n)
	return Config{
		DataDir: data, RelayAddr: net.JoinHostPort(host, "0"), ManagementAddr: net.JoinHostPort(host, f.port),
		Store: StoreConfig{URL: database, WithoutStandby: true, PoolSize: 6},
	}
}

func (f *fleet) add(m *member, c Config) *member {
	f.t.Helper()
	var err error
	if m.profile, err = cli.LoadProfile(filepath.Join(keysDir(c.DataDir), "admin.json")); err != nil {
		f.t.Fatal(err)
	}
	if m.Client, err = cli.NewClient(m.profile); err != nil {
		f.t.Fatal(err)
	}
	m.data = c.DataDir
	f.nodes = append(f.nodes, m)
	return m
}

// node starts a node in this process.
func (f *fleet) node() *member {
	f.t.Helper()
	return f.nodeOn(f.url)
}

func (f *fleet) nodeOn(database string) *member {
	f.t.Helper()
	c, m := f.configure(database), &member{}
	in := outside()
	in.engine = func(ctx context.Context, c Config, r prometheus.Registerer) (store.Store, error) {
		engine, err := openEngine(ctx, c, r)
		return postingStore{engine, m}, err
	}
	server, err := openIn(f.t.Context(), c, in)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := server.Admin(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	m.app, m.relay = server, server.RelayURL()
	f.add(m, c)
	m.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("node %s ended with %v", m.relay, err)
		}
		m.stop = func() {}
	}
	f.t.Cleanup(func() { m.stop() })
	return m
}

// memberEnv has a copy of this test program be a node instead; it holds a Config.
const memberEnv = "TIDELOCK_TEST_NODE"

// mortal starts a node in a process of its own.
func (f *fleet) mortal() *member {
	f.t.Helper()
	c := f.configure(f.url)
	m := &member{stop: func() {}}
	f.spawn(m, c)
	return f.add(m, c)
}

// again starts a node whose process was killed.
func (f *fleet) again(m *member) {
	f.t.Helper()
	f.spawn(m, Config{
		DataDir: m.data, RelayAddr: strings.TrimPrefix(m.relay, "http://"), ManagementAddr: strings.TrimPrefix(m.profile.ManagementURL, "https://"),
		Store: StoreConfig{URL: f.url, WithoutStandby: true, PoolSize: 6},
	})
}

func (f *fleet) spawn(m *member, c Config) {
	f.t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		f.t.Fatal(err)
	}
	m.process = exec.Command(os.Args[0])
	m.process.Env = append(os.Environ(), memberEnv+"="+string(raw))
	m.process.Stderr = os.Stderr
	if m.orders, err = m.process.StdinPipe(); err != nil {
		f.t.Fatal(err)
	}
	out, err := m.process.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := m.process.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = m.process.Process.Kill() }) // it may have ended by itself
	m.answers = bufio.NewReader(out)
	line, err := m.answers.ReadString('\n')
	if err != nil {
		f.t.Fatalf("a node in a process of its own does not start: %v", err)
	}
	m.relay, m.ended = strings.TrimSpace(line), make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		_ = process.Wait() // killed, as a rule
		close(ended)
	}(m.process, m.ended)
}

func (m *member) kill() {
	_ = m.process.Process.Kill() // likewise
	<-m.ended
}

// dieAt has the process kill itself at its n-th step from now; see steps.
func (m *member) dieAt(t *testing.T, n int) {
	t.Helper()
	if _, err := fmt.Fprintln(m.orders, n); err != nil {
		t.Fatal(err)
	}
	if _, err := m.answers.ReadString('\n'); err != nil {
		t.Fatalf("a node in a process of its own takes no order: %v", err)
	}
}

// died says whether the process has killed itself over what it was told to do; if it has not
// a while after that is done, it goes on.
func (m *member) died(done func() bool) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && !done(); {
		select {
		case <-m.ended:
			return true
		case <-time.After(50 * time.Millisecond):
		}
	}
	select {
	case <-m.ended:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

// lookSooner has a node look for a new version of the relay's key, as an event of the vault does.
func (m *member) lookSooner(t *testing.T) {
	t.Helper()
	if m.app != nil {
		m.app.lookAtKey()
		return
	}
	if _, err := fmt.Fprintln(m.orders, orderLook); err != nil {
		t.Fatal(err)
	}
}

func (a *App) lookAtKey() { a.custody.LookSooner("quickstart-vault."+a.vaultSuffix(), "relay-key") }

const orderLook = "look"

// runMember is the process of a node. Each line that it reads is orderLook, or the number of
// steps after which it kills itself, which it answers; at the end of its input, its test has
// ended.
func runMember(raw string) error {
	var c Config
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return err
	}
	c.Log = slog.New(slog.DiscardHandler)
	var left steps
	in := outside()
	in.engine = func(ctx context.Context, c Config, r prometheus.Registerer) (store.Store, error) {
		engine, err := openEngine(ctx, c, r)
		return mortalStore{engine, &left}, err
	}
	in.toKeyStores = func(next http.RoundTripper) http.RoundTripper { return mortalTransport{next, &left} }
	server, err := openIn(context.Background(), c, in)
	if err != nil {
		return err
	}
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			if in.Text() == orderLook {
				server.lookAtKey()
			}
			var n int64
			if _, err := fmt.Sscan(in.Text(), &n); err == nil {
				left.Store(n)
				fmt.Println("counting")
			}
		}
		os.Exit(0)
	}()
	fmt.Println(server.RelayURL())
	return server.Serve(context.Background())
}

// steps counts down what a process does that others can see: its writes of rows and its
// requests of key stores, before and after each. At zero the process kills itself.
type steps struct{ atomic.Int64 }

func (s *steps) pass() {
	if s.Load() > 0 && s.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it has arrived
	}
}

type mortalStore struct {
	store.Store
	left *steps
}

func (s mortalStore) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	for _, w := range writes {
		if strings.HasPrefix(string(w.Table), "cluster-") { // a node's beats come all the time
			return s.Store.WriteRows(ctx, writes)
		}
	}
	s.left.pass()
	err := s.Store.WriteRows(ctx, writes)
	s.left.pass()
	return err
}

type mortalTransport struct {
	http.RoundTripper
	left *steps
}

func (t mortalTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.left.pass()
	resp, err := t.RoundTripper.RoundTrip(r)
	t.left.pass()
	return resp, err
}

// newVersion makes a version of the relay's key and returns its URL.
func (f *fleet) newVersion() string {
	f.t.Helper()
	keys, err := f.nodes[0].Keys("quickstart-vault")
	if err != nil {
		f.t.Fatal(err)
	}
	made, err := keys.CreateKey(f.t.Context(), "relay-key", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(2048))}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(*made.Key.KID)
}

// enable turns a version of the relay's key on or off.
func (f *fleet) enable(kid string, on bool) {
	f.t.Helper()
	keys, err := f.nodes[0].Keys("quickstart-vault")
	if err == nil {
		_, err = keys.UpdateKey(f.t.Context(), "relay-key", path.Base(kid), azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: &on}}, nil)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// patchKey moves a relay to a key by way of one node.
func (m *member) patchKey(ctx context.Context, path, url string) error {
	return m.Do(ctx, "PATCH", path, released, map[string]any{"properties": map[string]any{"encryption": map[string]any{
		"customerManagedKeyEncryption": map[string]any{"keyEncryptionKeyUrl": url},
	}}}, nil)
}

// endpoint reaches the quickstart's relay through a node.
func (f *fleet) endpoint(m *member) bench.Endpoint {
	return bench.Endpoint{URL: m.relay, Tenant: f.tenant, Key: f.key}
}

// typing is a client that writes until it is told to stop.
type typing struct {
	*bench.Client
	stop     func()
	document bench.Document
	acked    atomic.Int64
	errors   atomic.Int64
	texts    sync.Map // what the errors said
}

// said is what a client had to complain of, each once.
func (w *typing) said() map[string]bool {
	all := map[string]bool{}
	w.texts.Range(func(text, _ any) bool {
		all[text.(string)] = true
		return true
	})
	return all
}

// write has a client type in a new document that a node serves, through that node.
func (f *fleet) write(m *member) *typing {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		w, own := f.connect(m)
		if m.owns(f, w) { // where a document goes is chance
			f.keepTyping(w, own)
			return w
		}
		w.Close()
		if time.Now().After(end) {
			f.t.Fatalf("%s is given no document", m.relay)
		}
	}
}

// writeAnywhere has a client type in a new document, through a node, whichever serves it.
func (f *fleet) writeAnywhere(m *member) *typing {
	f.t.Helper()
	w, own := f.connect(m)
	f.keepTyping(w, own)
	return w
}

// connect connects a client to a new document; own has a value when an op of the client's was
// acknowledged.
func (f *fleet) connect(m *member) (w *typing, own chan struct{}) {
	f.t.Helper()
	w, own = &typing{}, make(chan struct{}, 1)
	var err error
	if w.document, err = f.endpoint(m).Create(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	w.Client, err = bench.Dial(f.t.Context(), f.endpoint(m), w.document, bench.Options{
		Mode: bench.Write, Reconnect: true,
		OnOp: func(op bench.Op) {
			if op.Own && op.Type == "op" {
				w.acked.Add(1)
				select {
				case own <- struct{}{}:
				default:
				}
			}
		},
		OnError: func(err error) {
			w.errors.Add(1)
			w.texts.Store(err.Error(), nil)
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return w, own
}

// keepTyping has a client write until it is told to stop, an op at a time.
func (f *fleet) keepTyping(w *typing, own <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if w.WaitConnected(ctx) == nil {
				_, _ = w.Submit("op", []byte(`{"typed":true}`)) // what is not acknowledged does not count
			}
			select {
			case <-own:
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	w.stop = func() {
		cancel()
		<-done
		w.Close()
		w.stop = func() {}
	}
	f.t.Cleanup(func() { w.stop() })
}

// offline says whether a client is without a connection: it will hear of no more ops.
func (w *typing) offline() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	return w.WaitConnected(ctx) != nil
}

// await waits until ok, at most so long, and returns how long it took.
func (f *fleet) await(what string, within time.Duration, ok func() bool) time.Duration {
	f.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			f.t.Fatalf("%s: not within %s", what, within)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}
