package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// parallelSetup is how many documents are created, or clients connected, at once.
	parallelSetup = 16
	// drainTimeout is how long after the last submit a receipt may take.
	drainTimeout = 10 * time.Second
)

// Config of a run. Duration or Ops ends it, whichever comes first; one must be set.
type Config struct {
	Endpoint  Endpoint
	Documents int
	Writers   int // per document, each a connection that submits and reads
	Readers   int // per document, each a connection that reads
	OpBytes   int // size of an op's contents

	Duration time.Duration
	Ops      int // in all

	// Rate is how many ops per second all writers together submit. 0 is the closed
	// loop: each writer has InFlight ops (0: one) submitted and not yet seen sequenced.
	Rate     float64
	InFlight int

	// HoldMSN keeps every writer's reference sequence number where it was when it
	// connected, as one client does that lags behind: the minimum sequence number stays,
	// and the service has all ops to remember.
	HoldMSN bool

	// Directory is on the disk that the service writes to, to measure an fsync there; "":
	// the service is elsewhere.
	Directory string

	// ServerPID is the service's process on this machine, to report what it takes; 0:
	// none.
	ServerPID int
}

func (c Config) check() error {
	switch {
	case c.Endpoint.URL == "" || c.Endpoint.Tenant == "" || c.Endpoint.Key == "":
		return errors.New("an endpoint needs a URL, a tenant and a key")
	case c.Documents < 1 || c.Writers < 0 || c.Readers < 0 || c.Writers+c.Readers == 0:
		return errors.New("at least one document and one writer or reader are needed")
	case c.Writers == 0 && (c.Duration == 0 || c.Ops > 0 || c.Rate > 0):
		return errors.New("without writers there is a duration, and no ops")
	case c.OpBytes < 0 || c.OpBytes > 700_000:
		return errors.New("an op has 0 to 700000 bytes")
	case c.Duration < 0 || c.Ops < 0 || c.Duration == 0 && c.Ops == 0:
		return errors.New("a duration or a number of ops is needed")
	case c.Rate < 0:
		return errors.New("the rate is negative")
	case c.InFlight < 0 || c.InFlight > 1 && c.Rate > 0:
		return errors.New("a number of ops in flight goes with the closed loop")
	}
	return nil
}

// Run creates the documents, connects all clients, drives them, and reports. It
// writes a line to progress when each phase begins. What goes wrong once all are
// connected is counted in the report; that they could not all be connected is an
// error. When ctx ends early the report covers what was done until then.
func Run(ctx context.Context, c Config, progress io.Writer) (Report, error) {
	if err := c.check(); err != nil {
		return Report{}, fmt.Errorf("configuration: %w", err)
	}
	c.InFlight = max(c.InFlight, 1)
	r := &run{config: c}
	defer r.close()
	fmt.Fprintf(progress, "creating %d documents\n", c.Documents)
	documents, err := r.create(ctx)
	if err != nil {
		return Report{}, err
	}
	idle, err := r.usage()
	if err != nil {
		return Report{}, err
	}
	fmt.Fprintf(progress, "connecting %d writers and %d readers\n", c.Documents*c.Writers, c.Documents*c.Readers)
	if err := r.connect(ctx, documents); err != nil {
		return Report{}, err
	}
	contents, err := json.Marshal(strings.Repeat("x", c.OpBytes))
	if err != nil {
		panic("internal error: a string did not marshal: " + err.Error())
	}
	fmt.Fprintln(progress, "running")
	start, err := r.usage()
	if err != nil {
		return Report{}, err
	}
	report := r.measure(ctx, contents)
	end, err := r.usage()
	if err != nil {
		return report, err
	}
	if c.ServerPID != 0 {
		report.Server = taken(idle, start, end, report)
	}
	if len(r.writers) > 0 && c.Directory != "" && ctx.Err() == nil {
		fmt.Fprintln(progress, "measuring what a round trip takes at least")
		report.Floor, err = r.writers[0].floor(ctx, contents)
	}
	return report, err
}

// usage is that of the server; nothing if it is not to be looked at.
func (r *run) usage() (usage, error) {
	if r.config.ServerPID == 0 {
		return usage{}, nil
	}
	return usageOf(r.config.ServerPID)
}

// run is one run.
type run struct {
	config  Config
	writers []*writer
	readers []*Client

	measuring  atomic.Bool
	start      time.Time // set before measuring
	lastNanos  atomic.Int64
	submitted  atomic.Int64
	sequenced  atomic.Int64
	deliveries atomic.Int64
	quarters   [2]atomic.Int64 // sequenced after a quarter and three quarters of Duration
	errors     errorCounts
	roundTrips histogram
}

// writer is a client that submits.
type writer struct {
	run    *run
	client *Client

	mu      sync.Mutex
	pending []time.Time // when the ops that are not yet sequenced were to be submitted
	// less has room for one: pending became shorter.
	less chan struct{}
}

func (r *run) create(ctx context.Context) ([]Document, error) {
	documents := make([]Document, r.config.Documents)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelSetup)
	for i := range documents {
		g.Go(func() (err error) {
			documents[i], err = r.config.Endpoint.Create(ctx)
			return err
		})
	}
	return documents, g.Wait()
}

func (r *run) connect(ctx context.Context, documents []Document) error {
	var mu sync.Mutex // guards r.writers, r.readers
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelSetup)
	for _, d := range documents {
		for range r.config.Writers {
			g.Go(func() error {
				w := &writer{run: r, less: make(chan struct{}, 1)}
				client, err := Dial(ctx, r.config.Endpoint, d, Options{Mode: Write, HoldMSN: r.config.HoldMSN, Reconnect: true, OnOp: w.onOp, OnError: w.onError})
				if err != nil {
					return err
				}
				w.client = client
				mu.Lock()
				defer mu.Unlock()
				r.writers = append(r.writers, w)
				return nil
			})
		}
		for range r.config.Readers {
			g.Go(func() error {
				client, err := Dial(ctx, r.config.Endpoint, d, Options{Mode: Read, Reconnect: true, OnOp: r.delivered, OnError: r.errors.add})
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				r.readers = append(r.readers, client)
				return nil
			})
		}
	}
	return g.Wait()
}

// close ends all clients.
func (r *run) close() {
	var wg sync.WaitGroup
	for _, w := range r.writers {
		wg.Go(w.client.Close)
	}
	for _, c := range r.readers {
		wg.Go(c.Close)
	}
	wg.Wait()
}

// measure lets the writers write, waits for the last receipts, and reports.
func (r *run) measure(ctx context.Context, contents []byte) Report {
	r.start = time.Now()
	r.measuring.Store(true)
	limit := ctx
	if r.config.Duration > 0 {
		var cancel context.CancelFunc
		limit, cancel = context.WithTimeout(ctx, r.config.Duration)
		defer cancel()
	}
	var wg sync.WaitGroup
	if len(r.writers) == 0 {
		<-limit.Done()
	}
	wg.Go(func() { r.watchDrift(limit) })
	for i, w := range r.writers {
		wg.Go(func() {
			if r.config.Rate > 0 {
				w.paced(limit, contents, i)
			} else {
				w.closedLoop(limit, contents)
			}
		})
	}
	wg.Wait()
	drain, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for _, w := range r.writers {
		w.wait(drain, 1)
		w.mu.Lock()
		r.errors.unacknowledged.Add(int64(len(w.pending)))
		w.mu.Unlock()
	}
	r.measuring.Store(false)
	return r.report()
}

// next takes the right to submit one more op.
func (r *run) next() bool {
	return r.submitted.Add(1) <= int64(r.config.Ops) || r.config.Ops == 0
}

// watchDrift notes how many ops were sequenced after a quarter and after three quarters
// of the time.
func (r *run) watchDrift(ctx context.Context) {
	for i, share := range []time.Duration{1, 3} {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(r.start.Add(r.config.Duration * share / 4))):
			r.quarters[i].Store(r.sequenced.Load())
		}
	}
}

// closedLoop keeps InFlight ops under way.
func (w *writer) closedLoop(ctx context.Context, contents []byte) {
	for {
		free, n := w.wait(ctx, w.run.config.InFlight), 0
		if !w.ready(ctx) {
			return
		}
		for n < free && w.run.next() {
			n++
		}
		if n == 0 {
			return
		}
		w.submit(time.Now(), contents, n)
	}
}

// paced submits at the writer's share of the rate. An op's time runs from when it was
// due, so that a service that stands still is not spared by our standing still too.
func (w *writer) paced(ctx context.Context, contents []byte, index int) {
	writers := len(w.run.writers)
	period := time.Duration(float64(writers) / w.run.config.Rate * float64(time.Second))
	due := w.run.start.Add(period * time.Duration(index) / time.Duration(writers)) // spread over the first period
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ; ; due = due.Add(period) {
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if !w.ready(ctx) || !w.run.next() {
			return
		}
		w.submit(due, contents, 1)
	}
}

// ready waits until the writer is connected.
func (w *writer) ready(ctx context.Context) bool {
	return w.client.WaitConnected(ctx) == nil
}

// submit submits n ops.
func (w *writer) submit(due time.Time, contents []byte, n int) {
	w.mu.Lock()
	for range n {
		w.pending = append(w.pending, due)
	}
	w.mu.Unlock()
	// If it fails the connection is ending, and onError counts the op as lost; if
	// that has happened already, no one else will take it off.
	if _, err := w.client.SubmitAll("op", contents, n); errors.Is(err, ErrNotConnected) {
		w.lost()
	}
}

// wait returns when fewer than n ops are pending, and how many fewer; or 0 when ctx
// has ended.
func (w *writer) wait(ctx context.Context, n int) int {
	for {
		w.mu.Lock()
		pending := len(w.pending)
		w.mu.Unlock()
		if pending < n {
			return n - pending
		}
		select {
		case <-w.less:
		case <-ctx.Done():
			return 0
		}
	}
}

func (w *writer) onOp(op Op) {
	w.run.delivered(op)
	if !op.Own || op.Type != "op" {
		return
	}
	now := time.Now()
	w.mu.Lock()
	if len(w.pending) == 0 {
		w.mu.Unlock()
		return // given up before
	}
	due := w.pending[0]
	w.pending = w.pending[1:]
	w.mu.Unlock()
	w.run.roundTrips.add(now.Sub(due))
	w.run.sequenced.Add(1)
	w.run.lastNanos.Store(int64(now.Sub(w.run.start)))
	w.wake()
}

func (w *writer) onError(err error) {
	w.run.errors.add(err)
	var e *Error
	if errors.As(err, &e) && e.Kind != Order {
		w.lost() // the connection is gone, and with it what was under way
	}
}

// lost gives up what is pending.
func (w *writer) lost() {
	w.mu.Lock()
	w.run.errors.unacknowledged.Add(int64(len(w.pending)))
	w.pending = nil
	w.mu.Unlock()
	w.wake()
}

func (w *writer) wake() {
	select {
	case w.less <- struct{}{}:
	default:
	}
}

// delivered counts an op that some client received.
func (r *run) delivered(op Op) {
	if r.measuring.Load() && op.Type == "op" {
		r.deliveries.Add(1)
	}
}
