package envelope

// Segment seals the records of one segment, in order. It is not safe for
// concurrent use: a document has one writer.
type Segment struct{ todo int }

// NewSegment starts a segment under a fresh random segment id.
func NewSegment(k DocumentKey, at SegmentPlace) (*Segment, error) { panic("todo") }

// Header returns the segment's header, to be stored with its first record.
func (s *Segment) Header() Header { panic("todo") }

// Seal seals the ops first..last as the segment's next record. ErrSegmentFull
// means that nothing was sealed and a new segment must be started.
func (s *Segment) Seal(first, last uint64, plaintext []byte) (Record, error) { panic("todo") }

// Chain is the last link: of the last record, or of the header when there is none.
func (s *Segment) Chain() Chain { panic("todo") }

// Records is how many records the segment has.
func (s *Segment) Records() uint64 { panic("todo") }

// SegmentReader opens the records of one segment.
type SegmentReader struct{ todo int }

// OpenSegment checks the header against its place and key commitment, ErrOpen if
// it is not of this document and key.
func OpenSegment(k DocumentKey, at KeyPlace, h Header) (*SegmentReader, error) { panic("todo") }

// Open opens rec. The first record opened may be any of the segment; each later
// one must be its successor, or ErrOpen. plaintext is the caller's to keep.
func (r *SegmentReader) Open(rec Record) (plaintext []byte, err error) { panic("todo") }

// Chain is the link of the record opened last; Records is that record's index plus one.
func (r *SegmentReader) Chain() Chain { panic("todo") }

// Records is how many records the segment is known to have.
func (r *SegmentReader) Records() uint64 { panic("todo") }
