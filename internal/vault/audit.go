package vault

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// AuditEvent is a record of the audit log, in the shape of the service's diagnostic
// logs. Source: Azure Key Vault logging, "Interpret your Key Vault logs".
type AuditEvent struct {
	Time              time.Time       `json:"time"`
	ResourceID        string          `json:"resourceId"` // in upper case
	OperationName     string          `json:"operationName"`
	OperationVersion  string          `json:"operationVersion"` // the request's api-version
	Category          string          `json:"category"`         // AuditEvent
	ResultType        string          `json:"resultType"`       // Success or Failure
	ResultSignature   string          `json:"resultSignature"`
	ResultDescription string          `json:"resultDescription"`
	DurationMs        string          `json:"durationMs"`
	CallerIPAddress   string          `json:"callerIpAddress"`
	CorrelationID     string          `json:"correlationId"` // the answer's x-ms-request-id
	Identity          AuditIdentity   `json:"identity"`
	Properties        AuditProperties `json:"properties"`
}

// AuditIdentity is who asked; without claims nobody whose token was good.
type AuditIdentity struct {
	Claim *AuditClaim `json:"claim,omitempty"`
}

// AuditClaim is of the caller's token.
type AuditClaim struct {
	ObjectID string `json:"http://schemas.microsoft.com/identity/claims/objectidentifier"`
	AppID    string `json:"appid"`
}

// AuditProperties are about the request.
type AuditProperties struct {
	ClientInfo      string `json:"clientInfo"` // the client's User-Agent
	RequestURI      string `json:"requestUri"`
	ID              string `json:"id,omitempty"` // of the key, or the vault
	HTTPStatusCode  int    `json:"httpStatusCode"`
	ClientRequestID string `json:"clientRequestId,omitempty"` // x-ms-client-request-id
}

// refusalEvery is how often refused authentications of a vault are recorded: who has no
// token must not be able to push out the records of those who have.
const refusalEvery = time.Minute

// audit says who asked for what and what came of it, never a value: in the process's
// log, and in the vault's own, which is durable before the request is answered.
func (s *Service) audit(c *call, status int, refused *apiError) {
	attrs := []slog.Attr{
		slog.String("operation", c.route.event), slog.String("vault", c.vault.Name),
		slog.String("key_id", c.keyID), slog.String("object_id", c.caller.ObjectID),
		slog.String("client_id", c.caller.ClientID), slog.String("request_id", c.id), slog.Int("status", status),
	}
	if refused != nil {
		attrs = append(attrs, slog.String("code", refused.code), slog.String("inner_code", refused.inner))
	}
	s.log.LogAttrs(c.r.Context(), slog.LevelInfo, "vault audit", attrs...)
	if c.vault.Name == "" {
		return // there is no vault whose log it could be in
	}
	e := s.auditEvent(c, status, refused)
	if status == http.StatusUnauthorized {
		// A request without a token is how clients ask where to get one: a vault's log has
		// none of them, an HSM's has.
		if c.r.Header.Get("Authorization") == "" && !c.vault.HSM {
			return
		}
		skipped, ok := s.refusals.pass(c.vault.ref(), refusalEvery)
		if !ok {
			return
		}
		if skipped > 0 {
			e.ResultDescription += fmt.Sprintf(" (and %d refusals more since the last record of one)", skipped)
		}
	}
	s.audits.add(c.vault.ref(), e)
}

func (s *Service) auditEvent(c *call, status int, refused *apiError) AuditEvent {
	e := AuditEvent{
		Time: c.began.UTC(), OperationName: c.route.event, OperationVersion: bounded(c.r.URL.Query().Get("api-version"), 32),
		DurationMs: strconv.FormatInt(time.Since(c.began).Milliseconds(), 10), CorrelationID: c.id,
		Properties: AuditProperties{
			ClientInfo: bounded(c.r.UserAgent(), 256), RequestURI: bounded("https://"+c.r.Host+c.r.URL.RequestURI(), auditURIBytes), ID: c.keyID,
			ClientRequestID: bounded(c.r.Header.Get("X-Ms-Client-Request-Id"), 64),
		},
	}
	if host, _, err := net.SplitHostPort(c.r.RemoteAddr); err == nil {
		e.CallerIPAddress = host
	}
	if c.caller.ObjectID != "" {
		e.Identity.Claim = &AuditClaim{ObjectID: c.caller.ObjectID, AppID: c.caller.ClientID}
	}
	switch {
	case e.OperationName != "":
	case status == http.StatusUnauthorized:
		e.OperationName = "Authentication"
	default:
		e.OperationName = "Unknown" // a path or method that is none of the vault's
	}
	if refused != nil {
		e.ResultDescription = strings.Trim(refused.code+" "+refused.inner, " ")
	}
	if e.Properties.ID == "" {
		e.Properties.ID = s.uri(c.vault)
	}
	e.complete(c.vault, status)
	return e
}

// complete fills in what follows from the vault and the status.
func (e *AuditEvent) complete(v Vault, status int) {
	e.Category, e.ResourceID = "AuditEvent", strings.ToUpper(v.ResourceID)
	e.ResultType, e.ResultSignature, e.Properties.HTTPStatusCode = "Success", http.StatusText(status), status
	if status >= http.StatusBadRequest {
		e.ResultType = "Failure"
	}
}

// RecordManagement writes down what was asked of a vault in the management plane.
// e says who asked, for what, and when.
func (s *Service) RecordManagement(v Vault, e AuditEvent, status int) {
	e.DurationMs = strconv.FormatInt(time.Since(e.Time).Milliseconds(), 10)
	e.Properties.ID = s.uri(v)
	e.complete(v, status)
	s.audits.add(v.ref(), e)
}

// recordTime writes down what time brought to a key.
func (s *Service) recordTime(v Vault, operation, keyID string) {
	e := AuditEvent{Time: time.Now().UTC(), OperationName: operation, DurationMs: "0", Properties: AuditProperties{ClientInfo: "tidelock", ID: keyID}}
	e.complete(v, http.StatusOK)
	s.audits.add(v.ref(), e)
}

// bounded cuts a client's words to a length, and to printable ASCII.
func bounded(s string, bytes int) string {
	if len(s) > bytes {
		s = s[:bytes]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
