package relay

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/socketio"
)

// Types of a nack's content, as clients know them.
const (
	badRequest   = "BadRequestError"
	invalidScope = "InvalidScopeError"
	throttling   = "ThrottlingError"
)

// refusal is why a client is refused, as a nack or as a connect error.
//
// To a nack of any code but 403 clients answer by reconnecting under a new client
// id, after retryAfter, and sending again what was not acknowledged; 403 closes
// the container for good. To a connect error: 401 and 403 ask the token provider
// for a fresh token and try once more, then give up; 400 and 404 give up; 429 and
// 500 try again; 503 tries again only if told when.
type refusal struct {
	code       int    // an HTTP status
	kind       string // of a nack's content; connect errors have none
	message    string
	retryAfter time.Duration // zero: not said
	internal   string        // internalErrorCode of a connect error
}

// Every refusal of an op or signal that does not come from the sequencer (whose
// own are in its package: gap, unknown client, forbidden type, rsn out of range,
// no summary scope).
var (
	// The client connects again, in write mode.
	nackReadonly = refusal{code: 400, kind: badRequest, message: "Readonly client"}
	// The container closes: its token cannot write.
	nackScope = refusal{code: 403, kind: invalidScope, message: "Invalid scope"}
	// The client id is not one of this socket: the client connects again.
	nackClient = refusal{code: 400, kind: badRequest, message: "Nonexistent client"}
	// The client connects again; the signal is lost, as signals may be.
	nackSignal = refusal{code: 400, kind: badRequest, message: "Invalid signal message"}
	// The client connects again and sends the op again, unless its author mends it.
	nackOp = refusal{code: 400, kind: badRequest, message: "Invalid op message"}
	// As nackOp. Unmodified clients split what is larger than 200 kB.
	nackTooLarge = refusal{code: 413, kind: badRequest, message: "Op size too large"}
	// The client waits, connects again and sends the op again.
	nackSummaries = refusal{code: 429, kind: throttling, message: "Too many summaries of this document wait to be decided on", retryAfter: 5 * time.Second}
	// As nackOp. A frame is full before clients come to so many.
	nackTooMany = refusal{code: 413, kind: badRequest, message: "Too many ops or signals in one message"}
)

// nackThrottled refuses a whole message, of which nothing was sequenced or sent on.
// The client waits, connects again and sends its ops again; signals are lost.
func nackThrottled(wait time.Duration) refusal {
	return refusal{code: 429, kind: throttling, message: throttledMessage, retryAfter: wait}
}

// connectThrottled refuses a connect_document: the client waits, then tries again.
func connectThrottled(wait time.Duration) refusal {
	return refusal{code: 429, message: throttledMessage, retryAfter: wait}
}

// Every refusal of a connect_document but those of a token's own, in token.go.
var (
	// The client gives up: it does not speak this protocol.
	connectInvalid = refusal{code: 400, message: "Invalid connection message"}
	// The client gives up: there is no such document in this tenant.
	connectUnknown = refusal{code: 404, message: "Document is deleted and cannot be accessed."}
	// The client tries a fresh token, then gives up: this one does not let it read.
	connectNoRead = refusal{code: 403, message: "Missing doc:read scope in token claims"}
	// The client tries a fresh token, then gives up: this one was revoked.
	connectRevoked = refusal{code: 403, message: errRevokedSock.Message, internal: "TokenRevoked"}
	// The client waits, then tries again.
	connectTooMany = refusal{code: 429, message: "Too Many Clients Connected to Document", retryAfter: 5 * time.Minute}
	// The client waits, then tries again, by then at the next process.
	connectDraining = refusal{code: 503, message: "Server is shutting down", retryAfter: 2 * time.Second, internal: "ClusterDraining"}
	// The document was dropped while the client came in: it is read anew for the next try.
	connectAgain = refusal{code: 503, message: "Document is being reloaded", retryAfter: time.Second}
	// Another node serves the document, or will in a moment: the client tries again and is
	// passed on. (Not for sockets whose URL does not name tenant and document, as those of
	// all drivers do: they are never passed on.)
	connectElsewhere = refusal{code: 503, message: "Document is moving to another node", retryAfter: time.Second}
	// A fault of ours, in the log: the client tries again.
	connectFault = refusal{code: 500, message: "Internal Server Error", retryAfter: 5 * time.Second}
)

// keyRefusal is what clients are told when the key of their document cannot be
// used. While the owner may still change his mind, clients are held: they wait and
// keep what they have not sent. After that they are closed.
func keyRefusal(e *custody.UnusableError) refusal {
	r := refusal{code: 503, kind: throttling, message: keyCode(e), retryAfter: e.RetryAfter}
	if e.Close {
		return refusal{code: 403, kind: invalidScope, message: r.message}
	}
	// Without a time to wait clients would take 503 for final.
	r.retryAfter = max(r.retryAfter, time.Second)
	return r
}

// keyCode is what clients and operators see of e: contract, never changed.
func keyCode(e *custody.UnusableError) string {
	switch {
	case e.Rollback: // nothing is wrong with the key
		return "ROLLBACK_SUSPECTED"
	case e.Revoked:
		return "CMK_KEY_REVOKED:" + e.Reason
	case e.Checking:
		return "CMK_KEY_CHECKING"
	}
	return "CMK_KEY_UNREACHABLE"
}

// connectRefusal is the answer to a connect_document that failed with err. fault
// says that err is ours to look into.
func connectRefusal(err error) (r refusal, fault bool) {
	var auth *authError
	var key *custody.UnusableError
	var ended *endedError
	var full *throttledError
	switch {
	case errors.As(err, &full):
		return connectThrottled(full.retryAfter), false
	case errors.Is(err, errRevokedSock):
		return connectRevoked, false
	case errors.As(err, &auth):
		return refusal{code: auth.Status, message: auth.Message}, false
	case errors.As(err, &key):
		return keyRefusal(key), false
	case errors.Is(err, errUnknownDocument):
		return connectUnknown, false
	case errors.Is(err, errNoReadScope):
		return connectNoRead, false
	case errors.Is(err, errDraining):
		return connectDraining, false
	case errors.Is(err, errTooManyClients):
		return connectTooMany, false
	case isElsewhere(err):
		return connectElsewhere, false
	case errors.As(err, &ended):
		return connectAgain, false
	default:
		return connectFault, true
	}
}

// nackMessage is INack of the Fluid protocol definitions.
type nackMessage struct {
	Operation      *sequencer.Op `json:"operation,omitempty"`
	SequenceNumber sequencer.Seq `json:"sequenceNumber"`
	Content        nackContent   `json:"content"`
}

type nackContent struct {
	Code       int     `json:"code"`
	Type       string  `json:"type"`
	Message    string  `json:"message"`
	RetryAfter float64 `json:"retryAfter,omitempty"` // seconds
}

// nackFrame is a refusal from before the sequencer: it names no document, no op
// and no sequence number.
func nackFrame(r refusal) socketio.Frame {
	return socketio.NewEvent("nack", []byte(`""`), encode([]nackMessage{{SequenceNumber: -1, Content: r.nack()}}))
}

func (r refusal) nack() nackContent {
	return nackContent{Code: r.code, Type: r.kind, Message: r.message, RetryAfter: r.retryAfter.Seconds()}
}

// sequencerNackFrame is the sequencer's refusal of op.
func sequencerNackFrame(documentID []byte, op sequencer.Op, n *sequencer.Nack) socketio.Frame {
	content := nackContent{Code: n.Code, Type: n.Type, Message: n.Message, RetryAfter: n.RetryAfter.Seconds()}
	return socketio.NewEvent("nack", documentID, encode([]nackMessage{{Operation: &op, SequenceNumber: n.Seq, Content: content}}))
}

// connectError is the argument of connect_document_error.
type connectError struct {
	Code         int     `json:"code"`
	Message      string  `json:"message"`
	CanRetry     bool    `json:"canRetry,omitempty"`
	RetryAfter   float64 `json:"retryAfter,omitempty"` // seconds
	RetryAfterMS int64   `json:"retryAfterMs,omitempty"`
	InternalCode string  `json:"internalErrorCode,omitempty"`
}

func connectErrorFrame(r refusal) socketio.Frame {
	return socketio.NewEvent("connect_document_error", encode(r.connectError()))
}

func (r refusal) connectError() connectError {
	return connectError{
		Code:         r.code,
		Message:      r.message,
		CanRetry:     r.retryAfter > 0,
		RetryAfter:   r.retryAfter.Seconds(),
		RetryAfterMS: r.retryAfter.Milliseconds(),
		InternalCode: r.internal,
	}
}

// encode returns v as JSON. It is for our own types, which always encode; raw
// members were checked when they came in.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: encode " + err.Error())
	}
	return b
}
