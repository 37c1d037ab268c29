package relay

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
)

// Every refusal that does not come from the sequencer, as clients are sent it:
// testdata/refusals.txt. Those of tokens are in the tables of token_test.go.
func TestRefusalShapes(t *testing.T) {
	var got bytes.Buffer
	for _, one := range []struct {
		name string
		r    refusal
	}{
		{"nack: the session is a reader's", nackReadonly},
		{"nack: the token may not write", nackScope},
		{"nack: the client is none of this socket's", nackClient},
		{"nack: a signal is malformed", nackSignal},
		{"nack: an op is malformed", nackOp},
		{"nack: an op is too large", nackTooLarge},
		{"nack: too many in one message", nackTooMany},
		{"nack: over a rate", nackThrottled(2 * time.Second)},
		{"nack: the key was revoked", keyRefusal(&custody.UnusableError{Reason: "KeyDisabled", Revoked: true, RetryAfter: 30 * time.Second})},
		{"nack: the key was revoked, and its clients are not held", keyRefusal(&custody.UnusableError{Reason: "KeyDisabled", Revoked: true, Close: true})},
		{"nack: the key is being checked", keyRefusal(&custody.UnusableError{Checking: true, RetryAfter: 5 * time.Second})},
		{"nack: the key store does not answer", keyRefusal(&custody.UnusableError{RetryAfter: 30 * time.Second})},
		{"nack: the log was put back", keyRefusal(&custody.UnusableError{Rollback: true, RetryAfter: 30 * time.Second})},
		{"connect: malformed", connectInvalid},
		{"connect: no version in common", versionRefusal([]string{"^9.0.0"})},
		{"connect: no such document", connectUnknown},
		{"connect: the token may not read", connectNoRead},
		{"connect: the token was revoked", connectRevoked},
		{"connect: the document is full", connectTooMany},
		{"connect: over a rate", connectThrottled(2 * time.Second)},
		{"connect: the server stops", connectDraining},
		{"connect: the document is read anew", connectAgain},
		{"connect: the document moves", connectElsewhere},
		{"connect: a fault", connectFault},
		{"connect: the key was revoked", keyRefusal(&custody.UnusableError{Reason: "KeyDisabled", Revoked: true, RetryAfter: 30 * time.Second})},
	} {
		shape := encode(one.r.connectError())
		if one.r.kind != "" && one.name[0] == 'n' {
			shape = encode(nackMessage{SequenceNumber: -1, Content: one.r.nack()})
		}
		fmt.Fprintf(&got, "%s\n\t%s\n", one.name, shape)
	}
	const path = "testdata/refusals.txt"
	if *updateGolden {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s:\n got %s\nwant %s", path, got.Bytes(), want)
	}
}
