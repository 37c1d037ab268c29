package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/socketio"
)

const testKey = "key of the fake"

// fake is a Fluid service in memory, of one document, that can misbehave.
type fake struct {
	t       *testing.T
	web     *httptest.Server
	sockets *socketio.Server
	local   bool // answers as Tinylicious does

	mu      sync.Mutex
	order   *sequencer.Sequencer
	log     []json.RawMessage
	clients map[*fakeClient]bool
	nextID  int
	// tamper may change what is broadcast for an op; nil drops it.
	tamper func(seq sequencer.Seq, op []byte) [][]byte
	refuse string // the message of connect_document_error
}

type fakeClient struct {
	fake   *fake
	socket *socketio.Socket
	id     sequencer.ClientID
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, sockets: socketio.New(socketio.Config{}), order: sequencer.New(sequencer.State{}), clients: map[*fakeClient]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /documents/t", f.create)
	mux.HandleFunc("GET /documents/t/session/doc", f.discover)
	mux.HandleFunc("GET /deltas/t/doc", f.deltas)
	mux.HandleFunc("/socket.io/", func(w http.ResponseWriter, r *http.Request) {
		f.sockets.Serve(w, r, func(s *socketio.Socket) socketio.Handler { return &fakeClient{fake: f, socket: s} })
	})
	f.web = httptest.NewServer(mux)
	t.Cleanup(func() {
		f.sockets.Shutdown("test is over")
		f.web.Close()
	})
	return f
}

func (f *fake) endpoint() Endpoint { return Endpoint{URL: f.web.URL, Tenant: "t", Key: testKey} }
func (f *fake) document() Document { return Document{ID: "doc", StreamURL: f.web.URL} }

// authorized checks the token of a request for a document.
func (f *fake) authorized(token, document string) bool {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte(testKey), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	return err == nil && claims["documentId"] == document && claims["tenantId"] == "t" && len(claims["scopes"].([]any)) == 3
}

func (f *fake) create(w http.ResponseWriter, r *http.Request) {
	var body struct {
		EnableDiscovery bool            `json:"enableDiscovery"`
		Summary         json.RawMessage `json:"summary"`
		Values          json.RawMessage `json:"values"`
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !f.authorized(token, "") || !body.EnableDiscovery || body.Summary == nil || body.Values == nil {
		http.Error(w, `"bad create"`, http.StatusForbidden)
		return
	}
	w.WriteHeader(http.StatusCreated)
	if f.local {
		fmt.Fprint(w, `"doc"`)
		return
	}
	fmt.Fprintf(w, `{"id":"doc","session":{"deltaStreamUrl":%q}}`, f.web.URL)
}

func (f *fake) discover(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, `{"deltaStreamUrl":%q}`, f.web.URL)
}

func (f *fake) deltas(w http.ResponseWriter, r *http.Request) {
	if !f.authorized(strings.TrimPrefix(r.Header.Get("Authorization"), "Basic "), "doc") {
		http.Error(w, `"Invalid token"`, http.StatusForbidden)
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	to, _ := strconv.Atoi(r.URL.Query().Get("to"))
	f.mu.Lock()
	defer f.mu.Unlock()
	page := []json.RawMessage{}
	for seq := from + 1; seq < to && seq <= len(f.log); seq++ {
		page = append(page, f.log[seq-1])
	}
	_ = json.NewEncoder(w).Encode(page)
}

// publish keeps ops and broadcasts them. The caller holds f.mu.
func (f *fake) publish(ops ...sequencer.SequencedOp) {
	for _, op := range ops {
		raw := op.AppendJSON(nil)
		f.log = append(f.log, raw)
		out := [][]byte{raw}
		if f.tamper != nil {
			out = f.tamper(op.Seq, raw)
		}
		for _, raw := range out {
			frame := socketio.NewEvent("op", []byte(`"doc"`), []byte("["+string(raw)+"]"))
			for c := range f.clients {
				c.socket.Send(frame)
			}
		}
	}
}

// disconnect cuts all sockets.
func (f *fake) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.clients {
		c.socket.Close("cut")
	}
}

func (c *fakeClient) Event(name string, args []json.RawMessage) {
	c.fake.mu.Lock()
	defer c.fake.mu.Unlock()
	switch name {
	case "connect_document":
		c.connect(args[0])
	case "submitOp":
		var batches [][]sequencer.Op
		if err := json.Unmarshal(args[1], &batches); err != nil {
			c.fake.t.Errorf("submitOp %s: %v", args[1], err)
		}
		for _, op := range batches[0] {
			sequenced, nack := c.fake.order.Submit(time.Now(), c.id, op)
			if nack != nil {
				c.socket.Send(socketio.NewEvent("nack", []byte(`"doc"`), fmt.Appendf(nil,
					`[{"sequenceNumber":%d,"content":{"code":%d,"type":%q,"message":%q}}]`, nack.Seq, nack.Code, nack.Type, nack.Message)))
			}
			if sequenced != nil {
				c.fake.publish(*sequenced)
			}
		}
	}
}

func (c *fakeClient) connect(arg []byte) {
	f := c.fake
	var m connectMessage
	if err := json.Unmarshal(arg, &m); err != nil || m.ID != "doc" || m.TenantID != "t" || m.Client.Mode != m.Mode {
		f.t.Errorf("connect_document %s: %v", arg, err)
	}
	if !f.authorized(m.Token, "doc") {
		f.refuse = "Invalid token"
	}
	if f.refuse != "" {
		c.socket.Send(socketio.NewEvent("connect_document_error", fmt.Appendf(nil, `{"code":403,"message":%q}`, f.refuse)))
		return
	}
	f.nextID++
	c.id = sequencer.ClientID(fmt.Sprintf("client-%d", f.nextID))
	f.clients[c] = true
	c.socket.Send(socketio.NewEvent("signal", []byte(`{"clientId":null,"content":"{}"}`)))
	c.socket.Send(socketio.NewEvent("connect_document_success", fmt.Appendf(nil, `{"clientId":%q,"mode":%q,"initialMessages":[]}`, c.id, m.Mode)))
	if m.Mode == Write {
		op, _ := f.order.Join(time.Now(), sequencer.Client{ID: c.id, Detail: json.RawMessage(`{}`)})
		f.publish(op)
	}
}

func (c *fakeClient) Closed(string) {
	c.fake.mu.Lock()
	defer c.fake.mu.Unlock()
	delete(c.fake.clients, c)
	c.fake.publish(c.fake.order.Leave(time.Now(), c.id)...)
}
