package custody

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
)

// serviceKEK is the service-managed key, seen as a key store: resources without a
// customer's key go the same way as those with one. Its only key is the zero URL.
type serviceKEK struct{ key envelope.ServiceKey }

var _ keystore.Client = serviceKEK{}

const (
	serviceLabel     = "custody root key" // on disk, through the wrapping key derived from it: frozen
	serviceAlgorithm = "service-1"
)

func (s serviceKEK) Describe(context.Context, keystore.URL) (keystore.Key, error) {
	return keystore.Key{Type: serviceKeyID, Enabled: true}, nil
}

func (s serviceKEK) Wrap(_ context.Context, key keystore.URL, material []byte) (keystore.Wrapped, error) {
	b, err := s.key.WrapKey(serviceLabel, material)
	if err != nil {
		return keystore.Wrapped{}, &keystore.Error{Class: keystore.Invalid, Op: opWrap, Key: key, Cause: err}
	}
	return keystore.Wrapped{Algorithm: serviceAlgorithm, Value: b}, nil
}

func (s serviceKEK) Unwrap(_ context.Context, w keystore.Wrapped) ([]byte, string, error) {
	if w.Algorithm != serviceAlgorithm {
		return nil, "", &keystore.Error{Class: keystore.Invalid, Op: opUnwrap, Key: w.ID, Message: "unknown algorithm"}
	}
	b, err := s.key.UnwrapKey(serviceLabel, w.Value)
	if err != nil {
		return nil, "", &keystore.Error{Class: keystore.Invalid, Op: opUnwrap, Key: w.ID, Cause: err}
	}
	return b, "", nil
}

func (s serviceKEK) Deleted(_ context.Context, key keystore.URL) (keystore.Deleted, error) {
	return keystore.Deleted{}, &keystore.Error{Class: keystore.NotFound, Op: opGetDeleted, Key: key}
}

// The operations, as Key Vault's permissions are called, but for the last, which needs
// the permission get.
const (
	opGet        = "get"
	opWrap       = "wrapKey"
	opUnwrap     = "unwrapKey"
	opGetDeleted = "getDeleted"

	// Of these no key store is asked.
	opDestroy = "destroy" // what its key protected was destroyed
	opDrill   = "drill"   // a refusal is played
	opAccept  = "accept"  // what its key protects is served though it was put back
)

// reason is why a key is used; part of the audit log.
type reason string

const (
	forStart  reason = "start"  // a resource's key is needed and not in memory
	forProbe  reason = "probe"  // the watch asks whether it may still be used
	forCheck  reason = "check"  // a dry run
	forCreate reason = "create" // of a resource
	forUpdate reason = "update" // of a resource's key settings
	forRotate reason = "rotate" // to the key's newest version
	forDrill  reason = "drill"  // a refusal is played
	forRescue reason = "rescue" // to the newest version, for the one in use was disabled
	forEpoch  reason = "epoch"  // a new root key takes the place of the one before
	forOwn    reason = "own"    // the service-managed key has a new version
	forDelete reason = "delete" // of a document, or a resource

	forRollback reason = "rollback" // of a document's log, which an operator accepts
)

// kek is a customer's key as one use of it sees it: as one identity, for one reason,
// each call bounded in time and on the audit log.
type kek struct {
	client   keystore.Client
	identity string
	reason   reason
	timeout  time.Duration
	log      *slog.Logger
	book     *auditor
	resource string // hexadecimal; empty when the use is about the key and no resource
}

// of says which resource's root key is in question.
func (u kek) of(r envelope.ResourceID) kek {
	u.resource = hex.EncodeToString(r[:])
	return u
}

// foreground bounds each call that a person waits for.
const foreground = 5 * time.Second

func (k *Keeper) kek(identity string, isService bool, why reason) kek {
	u := kek{identity: identity, reason: why, timeout: foreground, log: k.c.Log, book: k.audit}
	if isService {
		u.client = serviceKEK{k.c.Service}
	} else {
		u.client = k.c.KeyStore(identity)
	}
	if why == forProbe {
		u.timeout = ProbeTimeout
	}
	return u
}

func (u kek) describe(ctx context.Context, key keystore.URL) (keystore.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	d, err := u.client.Describe(ctx, key)
	if err == nil && !key.IsZero() {
		key = d.ID // a URL without version was asked; this one answered
	}
	u.audit(ctx, opGet, key, d.RequestID, err)
	return d, err
}

func (u kek) wrap(ctx context.Context, key keystore.URL, material []byte) (keystore.Wrapped, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	w, err := u.client.Wrap(ctx, key, material)
	if err == nil && !key.IsZero() {
		key = w.ID
	}
	u.audit(ctx, opWrap, key, w.RequestID, err)
	return w, err
}

func (u kek) unwrap(ctx context.Context, w keystore.Wrapped) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	material, id, err := u.client.Unwrap(ctx, w)
	u.audit(ctx, opUnwrap, w.ID, id, err)
	return material, err
}

func (u kek) deleted(ctx context.Context, key keystore.URL) (keystore.Deleted, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	d, err := u.client.Deleted(ctx, key)
	u.audit(ctx, opGetDeleted, key, d.RequestID, err)
	return d, err
}

// audit writes down one use of a key: who, what, why, and the key store's request
// id, by which its own log is matched. Never a byte of key material.
func (u kek) audit(ctx context.Context, op string, key keystore.URL, requestID string, err error) {
	level, outcome, code := slog.LevelInfo, "ok", ""
	if key.IsZero() {
		level = slog.LevelDebug // the service-managed key: nobody's but ours
	}
	if err != nil {
		outcome = "failed"
		var refused *keystore.Error
		if errors.As(err, &refused) {
			code, requestID = refused.Code, refused.RequestID
			if !refused.Outage() {
				outcome = "refused"
			}
		}
	}
	u.log.LogAttrs(ctx, level, "key use", slog.String("op", op), slog.String("reason", string(u.reason)),
		slog.String("kid", keyIDText(key)), slog.String("identity", u.identity),
		slog.String("vault_request_id", requestID), slog.String("outcome", outcome), slog.String("code", code))
	if key.IsZero() {
		return
	}
	u.book.record(ctx, KeyUse{
		Time: time.Now().UTC(), Op: op, Reason: string(u.reason), KeyID: key.String(), Identity: u.identity,
		Resource: u.resource, Outcome: outcome, Code: code, RequestID: requestID,
	})
}

func keyIDText(key keystore.URL) string {
	if key.IsZero() {
		return serviceKeyID
	}
	return key.String()
}
