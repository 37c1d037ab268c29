package history

import (
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
)

// What an operator set holds for what is stored from then on.
func TestLimitsThatWereSet(t *testing.T) {
	r := newRig(t)
	const most = 1000
	big := strings.Repeat("x", most+1)
	small := r.doc.WithLimits(Limits{UploadBytes: most})
	if _, err := small.UploadSummary(t.Context(), channel(blob("a", big))); err == nil {
		t.Error("upload over the limit was taken")
	} else {
		wantBad(t, err, "more than 1000 bytes of blobs in one upload")
	}
	_, err := small.PutBlob(t.Context(), []byte(big))
	wantBad(t, err, "over the limit of 1000")

	narrow := r.doc.WithLimits(Limits{DocumentBytes: most})
	_, err = narrow.UploadSummary(t.Context(), channel(blob("a", big[:600]), blob("b", big[:600])))
	wantBad(t, err, "over 1000 bytes of blobs, the limit of a document")

	wide := r.doc.WithLimits(Limits{UploadBytes: MaxUploadBytes + 2})
	if _, err := wide.PutBlob(t.Context(), make([]byte, MaxUploadBytes+1)); err != nil {
		t.Errorf("blob within a raised limit: %v", err)
	}
	// What one object holds is no setting.
	widest := r.doc.WithLimits(Limits{UploadBytes: 2 * envelope.MaxPlaintextBytes})
	_, err = widest.PutBlob(t.Context(), make([]byte, envelope.MaxPlaintextBytes+1))
	wantBad(t, err, "one can have 32505856, whatever the limits")
}
