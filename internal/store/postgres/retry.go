package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// What the server's codes mean to us. https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
	uniqueViolation      = "23505"
	duplicateTable       = "42P07"
	duplicateObject      = "42710"
	readOnlyTransaction  = "25006" // it is a standby now
	adminShutdown        = "57P01"
	crashShutdown        = "57P02"
	cannotConnectNow     = "57P03"
	tooManyConnections   = "53300"
	diskFull             = "53100"
)

func codeOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// notDone says that a write surely changed nothing and may succeed if it is tried
// again: it was never sent, or the server rolled it back for another's sake.
func notDone(err error) bool {
	switch codeOf(err) {
	case serializationFailure, deadlockDetected, lockNotAvailable, cannotConnectNow, tooManyConnections, readOnlyTransaction:
		return true
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) && unreachable(err) || pgconn.SafeToRetry(err)
}

// unreachable says that the database did not answer as one that refuses us would:
// it is gone for now, or its connection is.
func unreachable(err error) bool {
	switch code := codeOf(err); code {
	case "":
	case adminShutdown, crashShutdown, cannotConnectNow, tooManyConnections, readOnlyTransaction, serializationFailure, deadlockDetected:
		return true
	default:
		return strings.HasPrefix(code, "08") // connection exception
	}
	var connect *pgconn.ConnectError
	var network net.Error
	var weakness weak
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &weakness) || errors.As(err, &untrusted) {
		return false
	}
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

const (
	retryFirst = 20 * time.Millisecond
	retryMost  = time.Second
	// patience is how long a call waits for the database to come back. Then it fails,
	// and whoever called has his own ways to try again.
	patience = 10 * time.Second
)

// retry calls do until it succeeds or fails with an error that again refuses, waiting
// longer each time, at most for patience. The last error is returned; where that says only
// that ctx is over, the one before is the reason, and is in its text.
func retry(ctx context.Context, again func(error) bool, do func() error) error {
	start, wait := time.Now(), retryFirst
	var before error
	for {
		err := do()
		if before != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return fmt.Errorf("%w; before that: %v", err, before) //nolint:errorlint // nobody is to take it for the outcome
		}
		if err == nil || !again(err) || ctx.Err() != nil || time.Since(start) > patience {
			return err
		}
		before = err
		// Up to a half more or less, so that nodes which lost one server do not all return at once.
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		wait = min(2*wait, retryMost)
	}
}
