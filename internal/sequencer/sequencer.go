package sequencer

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// The times of the reference service.
const (
	NoopConsolidation = 250 * time.Millisecond
	ClientTimeout     = 5 * time.Minute
)

// scopeSummary is the token scope that a summarize op needs.
const scopeSummary = "summary:write"

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

// Client is a write client about to join. ID is not empty. Detail is the trusted
// client object (IClient) as JSON; CanSummarize says that its token has
// summary:write, as Detail.scopes does.
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
type Sequencer struct {
	seq, msn, lastSentMSN Seq
	timestamp             int64 // of the last op, ms
	clients               *table

	// now is the latest time seen, ms: a clock that steps back does not take the
	// timestamps with it.
	now int64
	// noopDue is when a noop has to carry msn to the clients, ms. It means
	// something only while msn > lastSentMSN.
	noopDue int64
}

// New returns a sequencer that goes on from s. The zero State is a new document.
func New(s State) *Sequencer {
	q := &Sequencer{
		seq: s.Seq, msn: s.MSN, lastSentMSN: s.LastSentMSN, timestamp: s.Timestamp,
		clients: newTable(s.Clients), now: s.Timestamp,
	}
	for _, c := range s.Clients {
		q.now = max(q.now, c.LastUpdate)
	}
	q.noopDue = q.now + NoopConsolidation.Milliseconds()
	return q
}

// State returns a copy of the present state.
func (s *Sequencer) State() State {
	return State{Seq: s.seq, MSN: s.msn, LastSentMSN: s.lastSentMSN, Timestamp: s.timestamp, Clients: s.clients.states()}
}

// Apply replays an op that was emitted before, from the log. It fails if op cannot
// be the next one: the log is then not of this state, and the sequencer must not
// be used further. See the package comment for what replay cannot know.
func (s *Sequencer) Apply(op SequencedOp) error {
	if op.Seq != s.seq+1 {
		return fmt.Errorf("replay op %d: the next one is %d", op.Seq, s.seq+1)
	}
	if op.MSN < s.msn || op.MSN > op.Seq {
		return fmt.Errorf("replay op %d: its msn %d is not in [%d, %d]", op.Seq, op.MSN, s.msn, op.Seq)
	}
	if op.Timestamp < s.timestamp {
		return fmt.Errorf("replay op %d: its time is before the last op's", op.Seq)
	}
	s.now = max(s.now, op.Timestamp)
	if err := s.applyClient(op); err != nil {
		return fmt.Errorf("replay op %d (%q): %w", op.Seq, op.Type, err)
	}
	s.seq, s.msn, s.lastSentMSN, s.timestamp = op.Seq, op.MSN, op.MSN, op.Timestamp
	s.clients.raise(s.msn)
	return nil
}

// applyClient does to the table of clients what the replayed op did.
func (s *Sequencer) applyClient(op SequencedOp) error {
	switch {
	case op.ClientID != "":
		c := s.clients.byID[op.ClientID]
		if c == nil {
			return fmt.Errorf("client %q has not joined", op.ClientID)
		}
		// Not c.CSN+1: noops in between may have got no sequence number.
		if op.CSN <= c.CSN {
			return fmt.Errorf("client %q: csn %d after %d", op.ClientID, op.CSN, c.CSN)
		}
		s.clients.update(c, op.CSN, op.RSN, s.now)
	case op.Type == TypeJoin:
		var join struct {
			ClientID ClientID `json:"clientId"`
			Detail   struct {
				Scopes []string `json:"scopes"`
			} `json:"detail"`
		}
		if err := parseData(op.Data, &join); err != nil {
			return fmt.Errorf("data: %w", err)
		}
		if join.ClientID == "" || s.clients.byID[join.ClientID] != nil {
			return fmt.Errorf("client %q cannot join", join.ClientID)
		}
		s.clients.add(ClientState{
			ID: join.ClientID, RSN: op.MSN, LastUpdate: s.now,
			CanSummarize: slices.Contains(join.Detail.Scopes, scopeSummary),
		})
	case op.Type == TypeLeave:
		var id ClientID
		if err := parseData(op.Data, &id); err != nil {
			return fmt.Errorf("data: %w", err)
		}
		c := s.clients.byID[id]
		if c == nil {
			return fmt.Errorf("client %q has not joined", id)
		}
		s.clients.remove(c)
	}
	return nil
}

// Join admits a write client and returns its join op. A client that is there
// already changes nothing and returns false.
func (s *Sequencer) Join(now time.Time, c Client) (SequencedOp, bool) {
	if s.clients.byID[c.ID] != nil {
		return SequencedOp{}, false
	}
	s.clock(now)
	// The joiner starts at the msn, so that it cannot make the msn fall.
	s.clients.add(ClientState{ID: c.ID, RSN: s.msn, LastUpdate: s.now, CanSummarize: c.CanSummarize})
	return s.service(TypeJoin, nil, joinData(c)), true
}

// Leave removes a write client: its leave op, then noClient if it was the last.
// An unknown client gives nothing.
func (s *Sequencer) Leave(now time.Time, id ClientID) []SequencedOp {
	c := s.clients.byID[id]
	if c == nil {
		return nil
	}
	s.clock(now)
	return s.leave(nil, c)
}

func (s *Sequencer) leave(ops []SequencedOp, c *client) []SequencedOp {
	s.clients.remove(c)
	ops = append(ops, s.service(TypeLeave, nil, leaveData(c.ID)))
	if s.clients.len() == 0 {
		ops = append(ops, s.service(TypeNoClient, nil, nil))
	}
	return ops
}

// Submit orders an op. (nil, nil) means that nothing is to be sent: a duplicate,
// or a noop that waits for Tick.
func (s *Sequencer) Submit(now time.Time, id ClientID, op Op) (*SequencedOp, *Nack) {
	c := s.clients.byID[id]
	duplicate, nack := s.check(c, id, op)
	if duplicate || nack != nil {
		return nil, nack
	}
	s.clock(now)
	if op.RSN == -1 {
		op.RSN = s.seq
	}
	s.clients.update(c, op.CSN, op.RSN, s.now)
	if op.Type == TypeNoop && !s.sendNoop(op) {
		return nil, nil
	}
	sequenced := s.emit(SequencedOp{
		ClientID: id, CSN: op.CSN, RSN: op.RSN, Type: op.Type,
		Contents: op.Contents, Metadata: op.Metadata, Compression: op.Compression,
	})
	return &sequenced, nil
}

// check applies the reference service's checks, in its order. c is nil for an
// unknown client. A duplicate is dropped without a nack: the client has sent the
// op before, and will see or has seen that one.
func (s *Sequencer) check(c *client, id ClientID, op Op) (duplicate bool, nack *Nack) {
	if c != nil && op.CSN <= c.CSN {
		return true, nil
	}
	if c != nil && op.CSN > c.CSN+1 {
		return false, s.badRequest("Gap detected in incoming op")
	}
	switch op.Type {
	case TypeJoin, TypeLeave, TypeNoClient, TypeControl, TypeSummaryAck, TypeSummaryNack:
		return false, s.badRequest("Op not allowed")
	}
	if c == nil || c.Nacked {
		return false, s.badRequest("Nonexistent client")
	}
	if op.RSN < s.msn && op.RSN != -1 {
		// The op was made against a state that others may have forgotten, and so
		// would be all that follow it: the client has to join anew.
		c.Nacked, c.CSN = true, op.CSN
		return false, s.badRequest(fmt.Sprintf("Refseq %d < %d", op.RSN, s.msn))
	}
	if op.RSN > s.seq {
		return false, s.badRequest(fmt.Sprintf("Refseq %d > %d", op.RSN, s.seq))
	}
	if op.Type == TypeSummarize && !c.CanSummarize {
		return false, &Nack{
			Seq: s.msn, Code: 403, Type: "InvalidScopeError",
			Message: fmt.Sprintf("Client %s does not have summary permission", id),
		}
	}
	return false, nil
}

func (s *Sequencer) badRequest(message string) *Nack {
	return &Nack{Seq: s.msn, Code: 400, Type: "BadRequestError", Message: message}
}

// sendNoop says whether a client's noop is to be sequenced now. Otherwise its rsn
// has been taken, and if that raised the msn, one noop of the service will carry it
// for all that came within NoopConsolidation.
func (s *Sequencer) sendNoop(op Op) bool {
	waiting := s.msn > s.lastSentMSN
	s.msn = s.minimum()
	if s.msn == s.lastSentMSN {
		return false
	}
	if !isNull(op.Contents) {
		return true
	}
	if !waiting {
		s.noopDue = s.now + NoopConsolidation.Milliseconds()
	}
	return false
}

// Server orders an op of the service's own (summaryAck, summaryNack). contents is
// JSON; data is the same as a JSON string literal.
func (s *Sequencer) Server(now time.Time, typ string, contents, data json.RawMessage) SequencedOp {
	s.clock(now)
	return s.service(typ, contents, data)
}

// Tick does what is due at now: the noop that waited, the leave of writers that
// were silent for ClientTimeout.
func (s *Sequencer) Tick(now time.Time) []SequencedOp {
	s.clock(now)
	var ops []SequencedOp
	for c := s.clients.silent(); c != nil && c.LastUpdate+ClientTimeout.Milliseconds() <= s.now; c = s.clients.silent() {
		ops = s.leave(ops, c)
	}
	if s.msn > s.lastSentMSN && s.noopDue <= s.now {
		ops = append(ops, s.service(TypeNoop, nil, nil))
	}
	return ops
}

// NextTick is when Tick has something to do; zero when nothing is pending.
func (s *Sequencer) NextTick() time.Time {
	var due int64
	if c := s.clients.silent(); c != nil {
		due = c.LastUpdate + ClientTimeout.Milliseconds()
	}
	if s.msn > s.lastSentMSN && (due == 0 || s.noopDue < due) {
		due = s.noopDue
	}
	if due == 0 {
		return time.Time{}
	}
	return time.UnixMilli(due)
}

func (s *Sequencer) clock(now time.Time) {
	s.now = max(s.now, now.UnixMilli())
}

// service emits an op of the service's own.
func (s *Sequencer) service(typ string, contents, data json.RawMessage) SequencedOp {
	op := SequencedOp{CSN: -1, RSN: -1, Type: typ, Contents: contents, Data: data}
	if typ == TypeNoClient {
		op.RSN = s.seq + 1
	}
	return s.emit(op)
}

// emit gives op its place. What the op does to the clients has been done.
func (s *Sequencer) emit(op SequencedOp) SequencedOp {
	s.seq++
	s.msn = s.minimum()
	s.lastSentMSN, s.timestamp = s.msn, s.now
	op.Seq, op.MSN, op.Timestamp = s.seq, s.msn, s.now
	return op
}

// minimum is the msn of the present table: the head if no one writes. It never
// falls, because no rsn below the msn is ever admitted.
func (s *Sequencer) minimum() Seq {
	rsn, ok := s.clients.minRSN()
	if !ok {
		return s.seq
	}
	return rsn
}
