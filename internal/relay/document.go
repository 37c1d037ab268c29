package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/socketio"
	"github.com/tidelock/tidelock/internal/store"
)

const (
	// maxBatchBytes bounds one record of the log and one op event: a batch is cut
	// before the op that would pass it.
	maxBatchBytes = 1_000_000
	// checkpointOps is after how many ops a checkpoint is written: what a restart
	// replays at most, unless the process was killed while writing one.
	checkpointOps = 1000
	// keptScratch is the largest buffer that a document at rest keeps, and keptOps how
	// many ops it has room for.
	keptScratch, keptOps = 16 << 10, 32
	// opOverhead is an upper bound of what the service adds to an op's own bytes.
	opOverhead = 1024
)

var (
	errDraining       = errors.New("server is shutting down")
	errIdle           = errors.New("document was idle")
	errTooManyClients = errors.New("document has too many clients")
)

// endedError says that a document was dropped from memory while it was in use;
// whoever wants it opens it again.
type endedError struct{ cause error }

func (e *endedError) Error() string { return "document was dropped: " + e.cause.Error() }
func (e *endedError) Unwrap() error { return e.cause }

// document is one document in memory. Its goroutine (run) is the only one to
// order and append its ops: it takes what waits in the inbox, has it sequenced,
// sealed and made durable as one batch, and only then shows it to the sessions.
// Meanwhile the next batch collects in the inbox.
//
// A document never recovers: after a failed append, or when its key is lost, it
// ends, its sessions are closed, and the next who asks for it loads it anew.
type document struct {
	// Immutable.
	tenantID string
	id       string
	base     sequencer.Seq // its ops begin after it; 0 unless it came from elsewhere
	term     uint64        // of its claim
	idJSON   []byte
	log      *slog.Logger
	st       store.Store
	keys     *custody.Document
	hist     *history.Document
	m        *metrics
	inbox    *inbox
	ended    chan struct{} // closed once nothing is served any more

	maxClients int           // sessions that it takes
	window     time.Duration // how long ops below a summary are kept; 0: for ever

	witness witness

	jobs sync.WaitGroup // what run started and waits for
	tail tail           // written by run, read by anyone

	// Owned by run; no lock.
	seq       *sequencer.Sequencer
	writer    *custody.Writer
	state     history.State
	batch     batch
	spare     record        // empty, with the memory of a record that was sent
	parts     [][]byte      // the ops of a record, while they are sent
	durable   sequencer.Seq // the last op that is in the log
	unsaved   int           // ops since the last checkpoint
	judging   bool          // a summary is being decided on
	retention retention
	stop      error // set: end in order, for this reason

	mu         sync.Mutex // guards what follows; never held across I/O
	cause      error      // why the document ended
	sessions   []*session // in order of arrival
	byClient   map[sequencer.ClientID]*session
	audience   audience  // of sessions
	commit     string    // the newest version
	lastAccess time.Time // as its record says
}

// batch is what was sequenced and is not durable yet, cut into records.
type batch struct {
	records []record
	nacks   []pendingNack
}

// record is what becomes one record of the log and one op event.
type record struct {
	ops   []sequencer.SequencedOp
	plain []byte // the ops as the log keeps them
	ends  []int  // of each op in plain
}

// pendingNack waits until the ops before it were sent.
type pendingNack struct {
	to    *session
	frame socketio.Frame
}

// command is what a document's goroutine is asked to do.
type command interface {
	size() int // bytes it holds, about
}

type (
	joinCommand struct {
		s    *session
		done chan error
	}
	leaveCommand  struct{ s *session }
	submitCommand struct {
		s   *session
		ops []sequencer.Op
	}
	verdictCommand struct {
		seq     sequencer.Seq
		verdict history.Verdict
	}
	// serviceCommand says which service summary was made for the noClient op seq; none
	// if commit is empty.
	serviceCommand struct {
		seq    sequencer.Seq
		commit string
	}
	// stopCommand ends the document after what came before it: leaves of all
	// writers, checkpoint, sockets closed.
	stopCommand struct{ cause error }
)

func (c joinCommand) size() int    { return opOverhead + len(c.s.detail) }
func (leaveCommand) size() int     { return opOverhead }
func (stopCommand) size() int      { return opOverhead }
func (serviceCommand) size() int   { return opOverhead }
func (c verdictCommand) size() int { return opOverhead + len(c.verdict.Contents) }

func (c submitCommand) size() int {
	n := 0
	for _, op := range c.ops {
		n += opSize(op)
	}
	return n
}

// opSize is an upper bound of op's length once it is sequenced.
func opSize(op sequencer.Op) int {
	return opOverhead + len(op.Type) + len(op.Contents) + len(op.Metadata) + len(op.Compression)
}

// sequencedSize is an upper bound of op's encoded length.
func sequencedSize(op sequencer.SequencedOp) int {
	return opOverhead + len(op.Type) + len(op.Contents) + len(op.Metadata) + len(op.Compression) + len(op.Data)
}

// store returns what the storage routes work on.
func (d *document) store() *history.Document { return d.hist }

// head returns the commit id of the newest version.
func (d *document) head() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commit
}

// active says whether anyone is connected.
func (d *document) active() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.sessions) > 0
}

// broadcastSignal sends a signal of the service's own to every session. content is
// the JSON value of its content member.
func (d *document) broadcastSignal(content []byte) {
	d.send(signalFrame(nil, content))
}

// send queues f for every session.
func (d *document) send(f socketio.Frame) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		s.sock.Send(f)
	}
}

// sendTo queues f for one session of this document; an unknown one is nobody.
func (d *document) sendTo(id sequencer.ClientID, f socketio.Frame) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.byClient[id]; s != nil {
		s.sock.Send(f)
	}
}

// join admits s and returns once its success message is queued. The error is
// errTooManyClients or why the document ended.
func (d *document) join(s *session) error {
	done := make(chan error, 1)
	if !d.inbox.put(joinCommand{s, done}, d.ended) {
		return d.endCause()
	}
	select {
	case err := <-done:
		return err
	case <-d.ended:
		return d.endCause()
	}
}

// leave takes s out of the document, in its turn.
func (d *document) leave(s *session) { d.inbox.put(leaveCommand{s}, d.ended) }

// submit hands over ops of s. It waits while the document is too far behind.
func (d *document) submit(s *session, ops []sequencer.Op) {
	d.inbox.put(submitCommand{s, ops}, d.ended)
}

// run is the document's goroutine. It returns when the document has ended and
// everything it started has too.
func (d *document) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	d.jobs.Go(func() {
		defer cancel()
		select {
		case <-d.keys.Done(): // while an append hangs, too
			d.end(keyLoss(d.keys.Err()))
		case <-ctx.Done():
			d.end(errDraining)
		case <-d.ended:
		}
	})
	d.end(d.serve(ctx))
	d.jobs.Wait()
	d.keys.Close()
}

// keyLoss is what the end of a document's keys means to its clients.
func keyLoss(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return errUnknownDocument // the key was destroyed, and the document with it
	}
	return err
}

// end closes all sessions, telling them of a lost key, and lets go of everything
// that waits. Only the first call does anything. cause is never nil.
func (d *document) end(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause != nil {
		return
	}
	d.cause = cause
	close(d.ended)
	var key *custody.UnusableError
	for _, s := range d.sessions {
		if errors.As(cause, &key) {
			r := keyRefusal(key)
			d.m.nacked(r.code)
			s.sock.Send(nackFrame(r))
		}
		s.sock.Close(closeReason(cause))
	}
	d.sessions, d.byClient = nil, nil
}

// endCause says why the document ended, as whoever was about to use it is told.
func (d *document) endCause() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var key *custody.UnusableError
	if errors.As(d.cause, &key) || errors.Is(d.cause, errUnknownDocument) || errors.Is(d.cause, errDraining) || isElsewhere(d.cause) {
		return d.cause
	}
	return &endedError{d.cause}
}

// closeReason names an end in logs; it holds no detail of the document.
func closeReason(cause error) string {
	var key *custody.UnusableError
	switch {
	case errors.As(cause, &key):
		return "key unusable: " + key.Reason
	case errors.Is(cause, errUnknownDocument):
		return "document deleted"
	case errors.Is(cause, errDraining), errors.Is(cause, errIdle), isElsewhere(cause):
		return cause.Error()
	default:
		return "document dropped"
	}
}

// serve works until the document is stopped or fails; it returns the reason.
func (d *document) serve(ctx context.Context) error {
	if err := d.dismissWriters(ctx); err != nil {
		return err
	}
	d.judgeNext(ctx)
	d.retain(ctx)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for d.stop == nil {
		timer.Stop()
		if next := d.seq.NextTick(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.inbox.ready:
			for _, c := range d.inbox.take() {
				d.handle(c)
			}
		case <-timer.C:
			d.emit(d.seq.Tick(time.Now())...)
		}
		if err := d.flush(ctx); err != nil {
			return err
		}
	}
	return d.finish(ctx)
}

// dismissWriters sequences the leaves of all writers: at the start of those that a
// former run left in the log, whose sockets are gone and who would hold the msn
// back; at the end of those who are here.
func (d *document) dismissWriters(ctx context.Context) error {
	for _, c := range d.seq.State().Clients {
		d.emit(d.seq.Leave(time.Now(), c.ID)...)
	}
	return d.flush(ctx)
}

// handle does one command; what it sequences is in the batch.
func (d *document) handle(c command) {
	if d.stop != nil {
		return // came in after the stop; its sender sees the document end
	}
	switch c := c.(type) {
	case joinCommand:
		d.handleJoin(c)
	case leaveCommand:
		d.handleLeave(c.s)
	case submitCommand:
		d.handleSubmit(c)
	case verdictCommand:
		d.judging = false
		v := c.verdict
		d.m.judged(v)
		d.emit(d.seq.Server(time.Now(), v.Type, v.Contents, v.Data))
	case serviceCommand:
		d.judging = false
		d.state.Served(c.seq, c.commit)
		d.unsaved = max(d.unsaved, checkpointOps) // only a checkpoint knows of it
		d.publishVersion()
	case stopCommand:
		d.stop = c.cause
	default:
		panic(fmt.Sprintf("internal error: document command %T", c))
	}
}

// handleJoin lets a session in: the join signal to the whole room with the joiner,
// who takes its own for the sign that a read connection stands; then the success;
// the join op of a writer follows when it is durable.
func (d *document) handleJoin(c joinCommand) {
	s := c.s
	d.mu.Lock()
	if d.cause != nil {
		d.mu.Unlock()
		return // the joiner sees the end itself
	}
	if len(d.sessions) >= d.maxClients || !d.audience.fits(s.member) {
		d.mu.Unlock()
		c.done <- errTooManyClients
		return
	}
	// Ops up to here were broadcast before s is in the room; later ones it gets.
	success := s.successFrame(d.audience.encoded(d.sessions), d.durable)
	d.audience.add(s.member)
	d.sessions = append(d.sessions, s)
	d.byClient[s.id] = s
	d.mu.Unlock()

	d.send(signalFrame(nil, audienceContent("join", s.member)))
	s.sock.Send(success.Unbounded())
	c.done <- nil
	if s.writer {
		op, ok := d.seq.Join(time.Now(), sequencer.Client{ID: s.id, Detail: s.detail, CanSummarize: s.summarizer})
		if ok {
			d.emit(op)
		}
	}
}

// handleLeave takes a session out: the leave signal to the rest, and the leave op
// of a writer.
func (d *document) handleLeave(s *session) {
	d.mu.Lock()
	present := d.byClient[s.id] == s
	if present {
		delete(d.byClient, s.id)
		d.audience.remove(s.member)
		d.sessions = slices.DeleteFunc(d.sessions, func(other *session) bool { return other == s })
	}
	d.mu.Unlock()
	if !present {
		return
	}
	d.send(signalFrame(nil, audienceContent("leave", encode(s.id))))
	if s.writer {
		d.emit(d.seq.Leave(time.Now(), s.id)...)
	}
}

func (d *document) handleSubmit(c submitCommand) {
	for _, op := range c.ops {
		sequenced, nack := d.seq.Submit(time.Now(), c.s.id, op)
		if nack != nil {
			d.claim(op.RSN)
			d.m.nacked(nack.Code)
			d.batch.nacks = append(d.batch.nacks, pendingNack{c.s, sequencerNackFrame(d.idJSON, op, nack)})
		}
		if sequenced != nil {
			d.emit(*sequenced)
		}
	}
}

// emit adds sequenced ops to the batch. Each is encoded once, for log and event.
func (d *document) emit(ops ...sequencer.SequencedOp) {
	for _, op := range ops {
		b := &d.batch
		if n := len(b.records); n == 0 || len(b.records[n-1].plain)+sequencedSize(op) > maxBatchBytes {
			b.records = append(b.records, d.spare)
			d.spare = record{}
		}
		b.records[len(b.records)-1].add(op)
	}
}

func (r *record) add(op sequencer.SequencedOp) {
	r.ops = append(r.ops, op)
	r.plain = history.AppendOp(r.plain, op)
	r.ends = append(r.ends, len(r.plain))
}

// event is the op event of the record.
func (d *document) event(r record) socketio.Frame {
	begin := 0
	for _, end := range r.ends {
		d.parts = append(d.parts, r.plain[begin+opPrefixBytes:end])
		begin = end
	}
	f := socketio.NewListEvent("op", d.idJSON, d.parts)
	clear(d.parts)
	d.parts = d.parts[:0]
	return f
}

// keep keeps the memory of a record that is done with for the next one.
func (d *document) keep(r record) {
	clear(r.ops)
	if cap(r.plain) <= keptScratch && cap(r.ops) <= keptOps {
		d.spare = record{r.ops[:0], r.plain[:0], r.ends[:0]}
	}
}

// opPrefixBytes is the length that a record's plaintext has before each op.
const opPrefixBytes = 4

// flush makes the batch durable and then visible. After an error the document
// must be dropped: what became of the batch is not known.
func (d *document) flush(ctx context.Context) error {
	head := d.state.Head
	for _, r := range d.batch.records {
		if err := d.commitRecord(ctx, r); err != nil {
			return err
		}
		d.keep(r)
	}
	for _, n := range d.batch.nacks {
		n.to.sock.Send(n.frame)
	}
	clear(d.batch.records)
	d.batch = batch{records: d.batch.records[:0]}
	// After a new summary, too: the next restart need not find it in the log. Only
	// here, where all that was sequenced is durable, is the state that of the log.
	if d.unsaved >= checkpointOps || d.state.Head != head {
		d.checkpoint(ctx)
	}
	if d.state.Head != head {
		d.retain(ctx)
	}
	d.judgeNext(ctx)
	return nil
}

// commitRecord makes one record durable, then sends its ops to all sessions.
func (d *document) commitRecord(ctx context.Context, r record) error {
	first, last := r.ops[0].Seq, r.ops[len(r.ops)-1].Seq
	if err := d.keys.Settled(ctx); err != nil {
		return keyLoss(err)
	}
	sealed, err := d.writer.Seal(uint64(first), uint64(last), r.plain) // sequence numbers begin at 1
	if err != nil {
		return fmt.Errorf("seal ops %d..%d: %w", first, last, err)
	}
	started := time.Now()
	if err := d.st.Append(ctx, sealed); err != nil {
		return fmt.Errorf("append ops %d..%d: %w", first, last, err)
	}
	d.writer.Appended()
	d.m.appendSeconds.Observe(time.Since(started).Seconds())
	d.m.ops.Add(float64(len(r.ops)))
	// Durable, but not to be shown if the key was lost meanwhile, or may have been.
	if err := d.keys.Settled(ctx); err != nil {
		return keyLoss(err)
	}
	d.durable = last
	d.witness.head.Store(int64(last))
	for _, op := range r.ops {
		d.state.Apply(op)
	}
	// Before its ack is seen: who has seen it and asks for the newest version gets it.
	d.publishVersion()
	d.send(d.event(r))
	d.unsaved += len(r.ops)
	d.noteTail()
	return nil
}

// finish is the orderly end: the writers' leaves, a checkpoint, sockets closed.
// The leaves are not sent to those who leave: a client that sees its own would
// connect again at once.
func (d *document) finish(ctx context.Context) error {
	d.mu.Lock()
	sessions := d.sessions
	d.sessions, d.byClient = nil, map[sequencer.ClientID]*session{}
	d.mu.Unlock()
	defer func() {
		for _, s := range sessions {
			s.sock.Close(closeReason(d.stop))
		}
	}()
	if err := d.dismissWriters(ctx); err != nil {
		return err
	}
	if d.unsaved > 0 {
		d.checkpoint(ctx)
	}
	return d.stop
}
