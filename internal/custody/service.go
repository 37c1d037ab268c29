package custody

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// The service key is rotated in small steps, of which each leaves a store that opens:
//
//	file          gets the next version (staged); on several nodes, the file of each
//	row in use    names the version in the store; from then on it seals
//	(every row is sealed anew, and the root keys without a customer's key are rewrapped)
//	row gone      of the version before, once nothing is under it and no good copy of the
//	              data is from before
//	file          loses that version
//
// A row in use lies under a name that says which version it is of, in the clear, so that
// a file which lacks a version is refused with its number instead of "damaged".
const (
	tableServiceKeys = "service-keys" // on disk (hashed): frozen

	serviceLookEvery = time.Minute
	servicePassEvery = 24 * time.Hour // while there is an older version; oftener until nothing is under it
	servicePage      = 256
	serviceAgain     = time.Second           // after a pass that others wrote into
	servicePause     = 10 * time.Millisecond // after each page that changed: others want the disk, too
)

// serviceRow is a row in use.
type serviceRow struct {
	Version int       `json:"version"`
	Number  uint32    `json:"number"`
	Since   time.Time `json:"since"` // it seals
	// What the last pass found: of the newest version alone, by the node that leads.
	Left     int       `json:"left,omitzero"`     // values under an older version
	Resealed time.Time `json:"resealed,omitzero"` // nothing is under an older version since
}

// ServiceKeyFile keeps the service key outside of the data.
type ServiceKeyFile interface {
	// Changed returns what is in the file if that is not what was read or saved last.
	Changed() (key envelope.ServiceKey, changed bool, err error)
	// Save makes the key durable in the place of what was there.
	Save(envelope.ServiceKey) error
}

// ServiceKeysConfig of ServiceKeys.
type ServiceKeysConfig struct {
	Store   store.Store
	Service envelope.ServiceKey // shared with all who seal
	File    ServiceKeyFile
	// RetentionDays is how long copies of the data are good: so long an older version stays.
	RetentionDays int
	// Lacking returns the nodes, by URL, that do not have a version in their file, and Leads
	// says whether this one does what one node is to do; nil: there is one process.
	Lacking func(id string) []string
	Leads   func() bool
	// Tell has the other nodes Look; nil: there are none.
	Tell    func()
	Log     *slog.Logger
	Metrics prometheus.Registerer // where the metrics are registered; nil: nowhere
}

// ServiceKeys keeps the versions of the service key. It is safe for concurrent use.
type ServiceKeys struct {
	c    ServiceKeysConfig
	kick chan struct{}

	mu     sync.Mutex // held while anything changes; guards what follows
	inUse  []inUse    // by number
	passed time.Time  // when this process's last pass ended; zero: none did
	clean  bool       // it found nothing under an older version

	measured atomic.Pointer[serviceKeyAge] // for the metrics, which wait for no store
}

// serviceKeyAge is what the metrics are made of.
type serviceKeyAge struct {
	since time.Time // the newest version in use seals
	done  bool      // nothing is under an older one
}

type inUse struct {
	serviceRow
	key      store.RowKey
	revision uint64
}

// ServiceKeyVersion is a version of the service key, as it is shown.
type ServiceKeyVersion struct {
	Number uint32
	ID     string // tells keys of one number apart
	State  ServiceKeyState
	Since  time.Time // it seals; zero: it does not yet
	Until  time.Time // an older version is kept until then, and as long as something is under it
}

// ServiceKeyState says what a version does.
type ServiceKeyState string

// The states.
const (
	ServiceKeyStaged  ServiceKeyState = "Staged"  // it is in the file, and seals nothing yet
	ServiceKeySealing ServiceKeyState = "Sealing" // everything is sealed under it
	ServiceKeyOpening ServiceKeyState = "Opening" // what it sealed, still opens
)

// ErrServiceKeyVersion: the file lacks a version of the service key that the data needs.
var ErrServiceKeyVersion = errors.New("a version of the service key is missing")

// shortID is how versions are told apart among people and nodes.
func shortID(v envelope.ServiceVersion) string { return hex.EncodeToString(v.ID[:8]) }

// inUseName is where the row in use of a version is: its id, but for the last bytes, which are
// its number.
func inUseName(v envelope.ServiceVersion) envelope.Name {
	n := v.ID
	binary.BigEndian.PutUint32(n[len(n)-4:], v.Number)
	return n
}

// OpenServiceKeys compares the versions in the file with those in use, and has the newest of
// these seal. ErrServiceKeyVersion (wrapped) if one of them is not in the file. Data that has
// no rows in use is under the oldest version.
func OpenServiceKeys(ctx context.Context, c ServiceKeysConfig) (*ServiceKeys, error) {
	if c.Tell == nil {
		c.Tell = func() {}
	}
	s := &ServiceKeys{c: c, kick: make(chan struct{}, 1)}
	newServiceKeyMetrics(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readInUse(ctx); err != nil {
		return nil, err
	}
	return s, s.settle(ctx)
}

// newest is the row in use of the version that seals; nil before Begin. s.mu is held.
func (s *ServiceKeys) newest() *inUse {
	if len(s.inUse) == 0 {
		return nil
	}
	return &s.inUse[len(s.inUse)-1]
}

// Begin writes the first row in use of new data, or of data from before there were any.
func (s *ServiceKeys) Begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inUse) > 0 {
		return nil
	}
	err := s.use(ctx, s.c.Service.Versions()[0])
	if errors.Is(err, store.ErrConflict) { // another node was faster
		return s.readInUse(ctx)
	}
	return err
}

// readInUse reads the rows in use; s.mu is held.
func (s *ServiceKeys) readInUse(ctx context.Context) error {
	rows, err := s.c.Store.ListRows(ctx, tableServiceKeys, envelope.Name{}, envelope.Name{}, 2*envelope.MaxServiceVersions)
	if err != nil {
		return fmt.Errorf("list the versions of the service key: %w", err)
	}
	known := map[envelope.Name]envelope.ServiceVersion{}
	for _, v := range s.c.Service.Versions() {
		known[inUseName(v)] = v
	}
	found := make([]inUse, 0, len(rows))
	for _, row := range rows {
		v, ok := known[row.Name]
		if !ok {
			return fmt.Errorf("%w: the data is sealed under version %d (%x), which is not in the file", ErrServiceKeyVersion,
				binary.BigEndian.Uint32(row.Name[len(row.Name)-4:]), row.Name[:8])
		}
		only, _ := s.c.Service.Version(v.Number)
		raw, err := only.OpenRow(tableServiceKeys, row.Partition, row.Name, row.Value)
		if err != nil {
			return fmt.Errorf("open a row of %s: %w: %w", tableServiceKeys, store.ErrCorrupt, err)
		}
		one := inUse{key: row.RowKey, revision: row.Revision}
		if err := decodeRootRow(raw, &one.serviceRow); err != nil || one.Version != 1 || one.Number != v.Number {
			return fmt.Errorf("a row of %s is of no known form: %w", tableServiceKeys, store.ErrCorrupt)
		}
		found = append(found, one)
	}
	sortByNumber(found)
	s.keep(found)
	return nil
}

// keep remembers the rows in use; s.mu is held.
func (s *ServiceKeys) keep(all []inUse) {
	s.inUse = all
	if len(all) > 0 {
		s.measured.Store(&serviceKeyAge{since: s.newest().Since, done: s.done()})
	}
}

// done says whether nothing is under an older version; s.mu is held.
func (s *ServiceKeys) done() bool { return len(s.inUse) < 2 || !s.newest().Resealed.IsZero() }

func sortByNumber(all []inUse) {
	for i := range all { // they are few
		for j := i; j > 0 && all[j].Number < all[j-1].Number; j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
}

// settle has the newest version in use seal, and takes out of the file what is older than
// any; s.mu is held.
func (s *ServiceKeys) settle(ctx context.Context) error {
	versions := s.c.Service.Versions()
	if len(s.inUse) == 0 {
		return s.c.Service.SealUnder(versions[0].Number)
	}
	oldest, newest := s.inUse[0].Number, s.inUse[len(s.inUse)-1].Number
	if s.c.Service.Sealing() != newest {
		if err := s.c.Service.SealUnder(newest); err != nil {
			return err
		}
		s.clean = false
	}
	dropped := false
	for _, v := range versions {
		if v.Number < oldest {
			if err := s.c.Service.Drop(v.Number); err != nil {
				return err
			}
			s.c.Log.WarnContext(ctx, "a version of the service key is destroyed: nothing is under it any more", "number", v.Number, "id", shortID(v))
			dropped = true
		}
	}
	if !dropped {
		return nil
	}
	if err := s.c.File.Save(s.c.Service); err != nil {
		return fmt.Errorf("store the service key without versions that nothing needs: %w", err)
	}
	return nil
}

// use writes the row in use of a version; s.mu is held.
func (s *ServiceKeys) use(ctx context.Context, v envelope.ServiceVersion) error {
	in := inUse{serviceRow: serviceRow{Version: 1, Number: v.Number, Since: time.Now().UTC()}, key: store.RowKey{Table: tableServiceKeys, Name: inUseName(v)}}
	if err := s.writeInUse(ctx, &in, store.Absent); err != nil {
		return err
	}
	s.keep(append(s.inUse, in))
	return nil
}

// writeInUse seals and writes a row in use under its own version.
func (s *ServiceKeys) writeInUse(ctx context.Context, in *inUse, expect store.Expect) error {
	only, ok := s.c.Service.Version(in.Number)
	if !ok {
		return fmt.Errorf("the service key has no version %d", in.Number)
	}
	raw, err := json.Marshal(in.serviceRow)
	if err != nil {
		return fmt.Errorf("encode a row of %s: %w", tableServiceKeys, err)
	}
	value, err := only.SealRow(tableServiceKeys, in.key.Partition, in.key.Name, raw)
	if err != nil {
		return fmt.Errorf("seal a row of %s: %w", tableServiceKeys, err)
	}
	if err := s.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: in.key, Value: &value, Expect: expect}}); err != nil {
		return fmt.Errorf("write a row of %s: %w", tableServiceKeys, err)
	}
	in.revision++
	return nil
}

// found writes down for all nodes what a pass found, if that is news; s.mu is held.
func (s *ServiceKeys) found(ctx context.Context, left int) error {
	was := s.newest()
	if left == was.Left && s.clean == !was.Resealed.IsZero() {
		return nil
	}
	in := *was
	in.Left, in.Resealed = left, time.Time{}
	if s.clean {
		in.Resealed = s.passed.UTC()
	}
	err := s.writeInUse(ctx, &in, store.AtRevision(was.revision))
	if errors.Is(err, store.ErrConflict) { // another node was faster
		return s.readInUse(ctx)
	}
	if err != nil {
		return err
	}
	*was = in
	s.keep(s.inUse)
	s.c.Tell()
	return nil
}

// Look takes in what changed in the file and in the store. It is to be quick.
func (s *ServiceKeys) Look() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// look is Look; s.mu is held.
func (s *ServiceKeys) look(ctx context.Context) error {
	other, changed, err := s.c.File.Changed()
	if err != nil {
		return err
	}
	if changed {
		if err := s.c.Service.Take(other, s.newestIn(other)); err != nil {
			return errors.New("the file of the service key was replaced by one of another key, or by one without the version that seals: restore it from your backup, or copy it from another node")
		}
	}
	if err := s.readInUse(ctx); err != nil {
		return err
	}
	return s.settle(ctx)
}

// newestIn is the newest version in use that a file has; else the one that seals.
func (s *ServiceKeys) newestIn(file envelope.ServiceKey) uint32 {
	for i := len(s.inUse) - 1; i >= 0; i-- {
		for _, v := range file.Versions() {
			if inUseName(v) == s.inUse[i].key.Name {
				return v.Number
			}
		}
	}
	return s.c.Service.Sealing()
}

// Rotate makes the next version and has it seal. On several nodes it does so only when the
// file of each has it: until then the new version is staged in the file of this node, and
// lacking names the others. Doing it again goes on from there.
func (s *ServiceKeys) Rotate(ctx context.Context) (lacking []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	if len(s.inUse) == 0 {
		if err := s.use(ctx, s.c.Service.Versions()[0]); err != nil {
			return nil, err
		}
	}
	next, err := s.stage()
	if err != nil {
		return nil, err
	}
	if s.c.Lacking != nil {
		if lacking = s.c.Lacking(shortID(next)); len(lacking) > 0 {
			s.c.Tell() // to look at their files, which may have been replaced
			return lacking, nil
		}
	}
	// When the outcome is not known, the next look finds out.
	if err := s.use(ctx, next); err != nil {
		return nil, err
	}
	s.c.Log.WarnContext(ctx, "the service key has a new version", "number", next.Number, "id", shortID(next))
	s.c.Tell()
	s.Look()
	return nil, s.settle(ctx)
}

// stage returns the version that follows the one that seals. It is in the file.
func (s *ServiceKeys) stage() (envelope.ServiceVersion, error) {
	for _, v := range s.c.Service.Versions() {
		if v.Number > s.c.Service.Sealing() {
			return v, nil
		}
	}
	next, err := s.c.Service.Add()
	if err != nil {
		return next, err
	}
	if err := s.c.File.Save(s.c.Service); err != nil {
		return next, errors.Join(fmt.Errorf("store the service key with its next version: %w", err), s.c.Service.Drop(next.Number))
	}
	return next, nil
}

// Status returns the versions, the oldest first, and how many values were under an older one
// when a node last looked at them; done says that there were none.
func (s *ServiceKeys) Status() (all []ServiceKeyVersion, left int, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sealing := s.c.Service.Sealing()
	for _, v := range s.c.Service.Versions() {
		one := ServiceKeyVersion{Number: v.Number, ID: shortID(v), State: ServiceKeyOpening}
		if v.Number >= sealing {
			one.State = ServiceKeySealing
		}
		for i, in := range s.inUse {
			if in.key.Name != inUseName(v) {
				continue
			}
			one.Since = in.Since
			if i+1 < len(s.inUse) {
				one.Until = s.goodUntil(s.inUse[i+1].Since)
			}
		}
		if one.Since.IsZero() && v.Number > sealing {
			one.State = ServiceKeyStaged
		}
		all = append(all, one)
	}
	if !s.done() {
		left = s.newest().Left
	}
	return all, left, s.done()
}

// IDs are those of all versions in the file, for the other nodes.
func (s *ServiceKeys) IDs() []string {
	var all []string
	for _, v := range s.c.Service.Versions() {
		all = append(all, shortID(v))
	}
	return all
}

// goodUntil is until when a copy of the data from before t may be restored.
func (s *ServiceKeys) goodUntil(t time.Time) time.Time {
	return t.Add(time.Duration(s.c.RetentionDays+1) * day)
}

// Run does what is due, until ctx is over.
func (s *ServiceKeys) Run(ctx context.Context, k *Keeper) {
	ticker := time.NewTicker(serviceLookEvery)
	defer ticker.Stop()
	for {
		if err := s.turn(ctx, k); err != nil && ctx.Err() == nil {
			s.c.Log.ErrorContext(ctx, "the service key: trying again in a minute", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.kick:
		}
	}
}

func (s *ServiceKeys) turn(ctx context.Context, k *Keeper) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.look(ctx); err != nil {
		return err
	}
	if len(s.inUse) < 2 || s.c.Leads != nil && !s.c.Leads() {
		return nil
	}
	over := !time.Now().Before(s.goodUntil(s.inUse[1].Since)) // the oldest may go
	if s.clean && !over && time.Since(s.passed) < servicePassEvery {
		return nil
	}
	if err := s.pass(ctx, k); err != nil || !over || !s.clean {
		return err
	}
	oldest := s.inUse[0]
	if err := s.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: oldest.key, Expect: store.AtRevision(oldest.revision)}}); err != nil {
		return fmt.Errorf("give version %d of the service key up: %w", oldest.Number, err)
	}
	s.c.Tell()
	if err := s.readInUse(ctx); err != nil {
		return err
	}
	return s.settle(ctx)
}

// pass seals all rows anew that are under an older version, and rewraps the root keys that
// are. s.mu is held, but not while it works.
func (s *ServiceKeys) pass(ctx context.Context, k *Keeper) error {
	p := &servicePass{c: s.c, k: k, sealing: s.c.Service.Sealing()}
	s.clean = false
	s.mu.Unlock()
	err := p.all(ctx)
	s.mu.Lock()
	if err != nil {
		return err
	}
	if p.sealing != s.c.Service.Sealing() { // a version came meanwhile
		s.Look()
		return nil
	}
	s.passed, s.clean = time.Now(), p.found == 0
	if p.found > 0 {
		s.c.Log.InfoContext(ctx, "sealed anew under the newest version of the service key", "values", p.found-p.left, "left", p.left)
	}
	switch { // once more: a pass that finds nothing is the proof
	case p.left < p.found:
		s.Look()
	case p.stuck < p.left:
		time.AfterFunc(serviceAgain, s.Look)
	}
	return s.found(ctx, p.left)
}

type servicePass struct {
	c       ServiceKeysConfig
	k       *Keeper
	sealing uint32
	found   int // values under an older version
	left    int // of them, those that still are
	stuck   int // of these, those that another pass will not bring further
}

func (p *servicePass) all(ctx context.Context) error {
	var after store.RowKey
	for {
		rows, err := p.c.Store.ScanRows(ctx, after, servicePage)
		if err != nil {
			return fmt.Errorf("read what is under the service key: %w", err)
		}
		if err := p.page(ctx, rows); err != nil {
			return err
		}
		if len(rows) < servicePage {
			return nil
		}
		after = rows[len(rows)-1].RowKey
	}
}

func (p *servicePass) page(ctx context.Context, rows []store.Row) error {
	var anew []store.Resealed
	for _, row := range rows {
		if row.Table == tableServiceKeys || row.Value.Kind() != envelope.KindRow {
			continue
		}
		one, err := p.row(ctx, row)
		if err != nil {
			return err
		}
		if one != nil {
			anew = append(anew, *one)
		}
	}
	if len(anew) == 0 {
		return nil
	}
	n, err := p.c.Store.ResealRows(ctx, anew)
	if err != nil {
		return fmt.Errorf("seal rows anew: %w", err)
	}
	p.found += len(anew)
	p.left += len(anew) - n // written by others meanwhile, most likely under the newest
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(servicePause):
		return nil
	}
}

// row returns the row sealed anew; nil if there is nothing to do, or it was done.
func (p *servicePass) row(ctx context.Context, row store.Row) (*store.Resealed, error) {
	raw, number, err := p.c.Service.OpenRowVersion(string(row.Table), row.Partition, row.Name, row.Value)
	if err != nil {
		// It is damaged, or another node sealed it under a version that is not seen here yet. No
		// version goes while there is such a row.
		p.found++
		p.left++
		p.stuck++
		p.c.Log.ErrorContext(ctx, "a row opens under no version of the service key", "table", string(row.Table))
		return nil, nil
	}
	defer clear(raw)
	if row.Table == tableRootKeys && row.Name == p.c.Service.Name(tableRootKeys, currentID) && p.rootKey(ctx, raw) || number == p.sealing {
		return nil, nil
	}
	value, err := p.c.Service.SealRow(string(row.Table), row.Partition, row.Name, raw)
	if err != nil {
		return nil, fmt.Errorf("seal a row of %s anew: %w", row.Table, err)
	}
	return &store.Resealed{RowKey: row.RowKey, Old: row.Value, New: value}, nil
}

// rootKey rewraps the root key of this record in force, if it is one of a resource without
// a customer's key, and an older version wraps it. It says whether that was done.
func (p *servicePass) rootKey(ctx context.Context, raw []byte) bool {
	rec, err := decodeRecord(raw, p.k.c.Hosts)
	if err != nil || !rec.isService() || rec.KeyID == serviceKeyName(p.sealing) {
		return false
	}
	id, err := hex.DecodeString(rec.Resource)
	if err != nil {
		return false
	}
	p.found++
	if err = p.k.rewrapOwn(ctx, envelope.ResourceID(id)); err == nil {
		return true
	}
	p.left++
	if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
		p.stuck++
		p.c.Log.ErrorContext(ctx, "a root key is not under the newest version of the service key yet", "err", err)
	}
	return false
}

// rewrapOwn brings a root key that the service-managed key wraps under its newest version.
func (k *Keeper) rewrapOwn(ctx context.Context, r envelope.ResourceID) error {
	old, row, err := k.readRecord(ctx, r)
	if err != nil {
		return err
	}
	key, err := unwrapOld(ctx, k.kek("", true, forOwn).of(r), r, old)
	if err != nil {
		return err
	}
	return k.rewrap(ctx, r, rewrapping{old: old, row: row, key: key, version: keystore.Key{}, reason: forOwn})
}

// serviceKeyOf names the version of the service-managed key that wrapped w.
func (k *Keeper) serviceKeyOf(w keystore.Wrapped) (string, error) {
	b, number, err := k.c.Service.UnwrapKeyVersion(serviceLabel, w.Value)
	clear(b)
	if err != nil {
		return "", fmt.Errorf("find the version of the service key: %w", err)
	}
	return serviceKeyName(number), nil
}
