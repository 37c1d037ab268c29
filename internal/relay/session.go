package relay

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/socketio"
)

const (
	modeRead  = "read"
	modeWrite = "write"
)

// session is one client connected to one document, under a client id of its own.
// It is immutable once it has joined.
type session struct {
	id         sequencer.ClientID
	sock       *socketio.Socket
	doc        *document
	release    func()      // gives doc and allowance back
	expiry     *time.Timer // cuts the socket when the token is over; nil in local mode
	jti        string      // of the token, for its revocation
	writer     bool        // connected for writing
	mayWrite   bool        // its token has doc:write, whatever it is connected for
	summarizer bool        // may send summarize ops
	signalsV2  bool        // the dialect it sends signals in
	detail     []byte      // what others are told of it (IClient), JSON
	member     []byte      // {clientId, client}, JSON
	success    successMessage

	tenant    *usage
	allowance *allowance // its own rates
}

// clientDetail is IClient of the Fluid protocol definitions. All of it but Details
// is from the token: others take it for who this is.
type clientDetail struct {
	Mode       string          `json:"mode"`
	Permission []string        `json:"permission"`
	Scopes     []string        `json:"scopes"`
	User       json.RawMessage `json:"user"`
	Details    json.RawMessage `json:"details"`
	Timestamp  int64           `json:"timestamp"` // of the connection, ms
}

type member struct {
	ClientID sequencer.ClientID `json:"clientId"`
	Client   json.RawMessage    `json:"client"`
}

// successMessage is IConnected of the Fluid protocol definitions. Ops are not in
// it: clients fetch what is before CheckpointSequenceNumber and are sent the rest.
type successMessage struct {
	Claims                   json.RawMessage      `json:"claims"`
	ClientID                 sequencer.ClientID   `json:"clientId"`
	Existing                 bool                 `json:"existing"`
	Mode                     string               `json:"mode"`
	MaxMessageSize           int                  `json:"maxMessageSize"`
	ServiceConfiguration     serviceConfiguration `json:"serviceConfiguration"`
	InitialClients           []json.RawMessage    `json:"initialClients"`
	InitialMessages          []json.RawMessage    `json:"initialMessages"`
	InitialSignals           []json.RawMessage    `json:"initialSignals"`
	SupportedVersions        []string             `json:"supportedVersions"`
	SupportedFeatures        supportedFeatures    `json:"supportedFeatures"`
	Version                  string               `json:"version"`
	Timestamp                int64                `json:"timestamp"` // ms
	CheckpointSequenceNumber sequencer.Seq        `json:"checkpointSequenceNumber"`
	Nonce                    *string              `json:"nonce,omitempty"`
}

// serviceConfiguration has the values of the reference service. Clients do not cut
// their ops to MaxMessageSize, so it is not enforced; maxOpBytes is.
type serviceConfiguration struct {
	BlockSize      int `json:"blockSize"`
	MaxMessageSize int `json:"maxMessageSize"`
}

type supportedFeatures struct {
	SubmitSignalsV2 bool `json:"submit_signals_v2"`
}

// The sizes that connect messages announce, in bytes, as the reference service does.
const (
	announcedBlockSize    = 64436
	announcedMessageSize  = 16384
	announcedReadOnlySize = 1024
)

// newSession returns the session that m asks for and c allows. The mode is write
// only if both say so; the right to summarize is kept only by summarizers.
func newSession(sock *socketio.Socket, m connectMessage, version string, c claims, now time.Time) *session {
	scopes := slices.Clone(c.Scopes)
	if m.clientType != "summarizer" {
		scopes = slices.DeleteFunc(scopes, func(scope string) bool { return scope == summaryWrite })
	}
	s := &session{
		id:         sequencer.ClientID(newUUID()),
		sock:       sock,
		jti:        c.JTI,
		mayWrite:   c.has(docWrite),
		summarizer: slices.Contains(scopes, summaryWrite),
		signalsV2:  m.signalsV2,
	}
	s.writer = s.mayWrite && m.Mode == modeWrite
	mode, messageSize := modeRead, announcedReadOnlySize
	if s.writer {
		mode, messageSize = modeWrite, announcedMessageSize
	}
	user := c.User
	if user == nil {
		user = json.RawMessage(`{"id":""}`) // clients need one of everybody
	}
	s.detail = encode(clientDetail{
		Mode:       mode,
		Permission: []string{},
		Scopes:     scopes,
		User:       user,
		Details:    m.Client.Details,
		Timestamp:  now.UnixMilli(),
	})
	s.member = encode(member{s.id, s.detail})
	s.success = successMessage{
		Claims:               c.raw,
		ClientID:             s.id,
		Existing:             true,
		Mode:                 mode,
		MaxMessageSize:       messageSize,
		ServiceConfiguration: serviceConfiguration{announcedBlockSize, announcedMessageSize},
		InitialMessages:      []json.RawMessage{},
		InitialSignals:       []json.RawMessage{},
		SupportedVersions:    protocolVersions,
		SupportedFeatures:    supportedFeatures{SubmitSignalsV2: true},
		Version:              version,
		Timestamp:            now.UnixMilli(),
		Nonce:                m.Nonce,
	}
	return s
}

// successFrame answers the connect_document: members are those who were here
// before, an encoded list without its brackets; head is the last op that s will not
// be sent.
func (s *session) successFrame(members []byte, head sequencer.Seq) socketio.Frame {
	m := s.success
	m.InitialClients, m.CheckpointSequenceNumber = []json.RawMessage{}, head
	b := encode(m)
	// The last one: before it a claim may have that name, after it only the nonce is
	// the client's, a string, whose quotes are escaped.
	const empty = `"initialClients":[]`
	at := bytes.LastIndex(b, []byte(empty)) + len(empty) - 1
	return socketio.NewEvent("connect_document_success", slices.Insert(b, at, members...))
}

// end takes the session out of its document.
func (s *session) end() {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.doc.leave(s)
	s.release()
}
