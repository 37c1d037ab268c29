package sequencer

import (
	"encoding/json"
	"time"
)

// State is everything the order depends on, to be kept in a checkpoint.
type State struct {
	Seq         Seq           `json:"seq"`
	MSN         Seq           `json:"msn"`
	LastSentMSN Seq           `json:"lastSentMsn"`
	Timestamp   int64         `json:"timestamp"` // of the last op, ms
	Clients     []ClientState `json:"clients"`   // write clients, by id
}

// ClientState is what is known of one write client.
type ClientState struct {
	ID           ClientID `json:"id"`
	CSN          int64    `json:"csn"`
	RSN          Seq      `json:"rsn"`
	LastUpdate   int64    `json:"lastUpdate"` // ms
	Nacked       bool     `json:"nacked"`
	CanSummarize bool     `json:"canSummarize"`
}

// Client is a write client about to join. Detail is the trusted client object
// (IClient) as JSON; CanSummarize says that its token has summary:write.
type Client struct {
	ID           ClientID
	Detail       json.RawMessage
	CanSummarize bool
}

// Nack is the refusal of one op. Seq is the msn it was refused at.
type Nack struct {
	Seq        Seq
	Code       int    // an HTTP status
	Type       string // BadRequestError, InvalidScopeError, ThrottlingError, LimitExceededError
	Message    string
	RetryAfter time.Duration // zero: absent
}

func (n *Nack) Error() string { return n.Message }

// Sequencer orders the ops of one document. It is not safe for concurrent use.
type Sequencer struct{ todo int }

// New returns a sequencer that goes on from s. The zero State is a new document.
func New(s State) *Sequencer { panic("todo") }

// State returns a copy of the present state.
func (s *Sequencer) State() State { panic("todo") }

// Apply replays an op that was emitted before, from the log. It fails if op is
// not the next one: the log is then not of this state.
func (s *Sequencer) Apply(op SequencedOp) error { panic("todo") }

// Join admits a write client and returns its join op. A client that is there
// already changes nothing and returns false.
func (s *Sequencer) Join(now time.Time, c Client) (SequencedOp, bool) { panic("todo") }

// Leave removes a write client: its leave op, then noClient if it was the last.
// An unknown client gives nothing.
func (s *Sequencer) Leave(now time.Time, id ClientID) []SequencedOp { panic("todo") }

// Submit orders an op. (nil, nil) means that nothing is to be sent: a duplicate,
// or a noop that waits for Tick.
func (s *Sequencer) Submit(now time.Time, id ClientID, op Op) (*SequencedOp, *Nack) { panic("todo") }

// Server orders an op of the service's own (summaryAck, summaryNack). contents is
// JSON; data is the same as a JSON string literal.
func (s *Sequencer) Server(now time.Time, typ string, contents, data json.RawMessage) SequencedOp {
	panic("todo")
}

// Tick does what is due at now: the noop that waited, the leave of writers that
// were silent for ClientTimeout.
func (s *Sequencer) Tick(now time.Time) []SequencedOp { panic("todo") }

// NextTick is when Tick has something to do; zero when nothing is pending.
func (s *Sequencer) NextTick() time.Time { panic("todo") }

// The times of the reference service.
const (
	NoopConsolidation = 250 * time.Millisecond
	ClientTimeout     = 5 * time.Minute
)
