package keystore

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// classify turns whatever a call ended with into an *Error. What is not clearly the
// key store's considered answer is an outage: an outage is ridden out, while a
// refusal takes a customer's data off line.
func classify(op string, key URL, err error) *Error {
	e := &Error{Class: Unreachable, Op: op, Key: key}
	var answer *azcore.ResponseError
	var token tokenError
	var dns *net.DNSError
	switch {
	case errors.As(err, &token):
		e.Cause = token.error
		e.Message = "the identity got no token"
		if !tokenOutage(token.error) {
			e.Class = IdentityFailed
		}
	case errors.As(err, &answer) && answer.RawResponse != nil:
		e.fill(answer)
	case errors.As(err, &dns) && dns.IsNotFound && !dns.IsTimeout && !dns.IsTemporary:
		// A deleted vault's name stops resolving.
		e.Class, e.Cause, e.Message = VaultNotFound, err, "the vault's host name does not exist"
	default:
		e.Cause = err
	}
	return e
}

// tokenOutage says that the token service did not answer, or answered that it
// could not: that is no word about the identity.
func tokenOutage(err error) bool {
	status := func(s int) bool { return s == http.StatusTooManyRequests || s >= 500 }
	var answer *azcore.ResponseError
	if errors.As(err, &answer) {
		return status(answer.StatusCode)
	}
	// azidentity drops the cause of what got no answer: the network, most of the time.
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) {
		return failed.RawResponse == nil || status(failed.RawResponse.StatusCode)
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// strange is the error for an answer of status 200 that no key store gives.
func strange(op string, key URL, raw *http.Response, what string) *Error {
	return &Error{Class: Unreachable, Op: op, Key: key, Status: http.StatusOK, Code: "StrangeAnswer", Message: what, RequestID: requestID(raw)}
}

func requestID(r *http.Response) string {
	if r == nil {
		return ""
	}
	return bounded(r.Header.Get("x-ms-request-id"), 128)
}

// refusal is the error body of Key Vault; inner codes may be nested.
type refusal struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Inner   *refusal `json:"innererror"`
}

// fill reads status, codes and message from the raw answer: the SDK keeps only the
// outer code, which is "Forbidden" for every 403.
func (e *Error) fill(answer *azcore.ResponseError) {
	e.Status = answer.StatusCode
	e.RequestID = requestID(answer.RawResponse)
	var body struct {
		Error refusal `json:"error"`
	}
	if b, err := runtime.Payload(answer.RawResponse); err == nil {
		// A body that is not JSON leaves the codes empty: then the status decides.
		_ = json.Unmarshal(b, &body)
	}
	var codes []string
	for r, depth := &body.Error, 0; r != nil && depth < 4; r, depth = r.Inner, depth+1 {
		if r.Code != "" {
			codes = append(codes, bounded(r.Code, 64))
		}
	}
	if len(codes) > 0 {
		e.Code = codes[len(codes)-1]
	}
	e.Message = bounded(body.Error.Message, 512)
	e.Class = classOf(e.Status, codes)
}

func classOf(status int, codes []string) Class {
	has := func(any ...string) bool {
		return slices.ContainsFunc(codes, func(c string) bool { return slices.Contains(any, c) })
	}
	switch {
	case status == http.StatusForbidden:
		// The firewall before permissions: both kinds say "not authorized".
		switch {
		case has("ForbiddenByFirewall", "ForbiddenByConnection"):
			return Firewall
		case has("KeyDisabled"):
			return Disabled
		case has("KeyExpired", "KeyNotYetValid"):
			return Expired
		case has("AccessDenied", "ForbiddenByPolicy", "ForbiddenByRbac"):
			return Denied
		}
		return DeniedUnclassified
	case status == http.StatusNotFound && has("VaultNotFound"):
		return VaultNotFound
	case status == http.StatusNotFound && len(codes) > 0:
		return NotFound
	case status == http.StatusUnauthorized:
		return IdentityFailed // it has a token, but not one that this key store takes
	case status == http.StatusBadRequest:
		return Invalid
	case status == http.StatusTooManyRequests:
		return Throttled
	}
	return Unreachable
}

// bounded cuts text from outside to a length, and to one line, for logs.
func bounded(s string, bytes int) string {
	if len(s) > bytes {
		s = s[:bytes]
		for !utf8.ValidString(s) && len(s) > bytes-utf8.UTFMax {
			s = s[:len(s)-1]
		}
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
}
