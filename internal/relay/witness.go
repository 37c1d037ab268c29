package relay

import (
	"sync/atomic"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// witnessEvery is how often one document's witnesses are logged.
const witnessEvery = time.Minute

// witness notes clients that have seen more of a document than there is: if they tell
// the truth, the document was put back to an older state.
//
// It is an alarm, and stops nothing: whoever has a token could stop a document with a
// number that he made up. What is known for certain is the head anchor, which was
// compared when the document was loaded; a claim that it contradicts is a client's
// mistake or a lie. One that no anchor contradicts is for the operator to look into.
type witness struct {
	known  bool         // there was a head anchor, and the log agrees with it
	head   atomic.Int64 // the last op that is durable
	logged atomic.Int64 // when, in Unix seconds
}

// claim is called with what a client says that it has seen.
func (d *document) claim(seen sequencer.Seq) {
	head := sequencer.Seq(d.witness.head.Load())
	if seen <= head {
		return
	}
	d.m.witnesses[d.witness.known].Inc()
	now, before := time.Now().Unix(), d.witness.logged.Load()
	if now-before < int64(witnessEvery/time.Second) || !d.witness.logged.CompareAndSwap(before, now) {
		return
	}
	log := d.log.Error
	if d.witness.known {
		log = d.log.Warn
	}
	log("a client claims to have seen an op above the head: was the data put back to an older state?",
		"claimed_seq", seen, "head_seq", head, "anchored", d.witness.known)
}
