package vault

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

// serviceVersion has the form of Azure's x-ms-keyvault-service-version.
const serviceVersion = "1.9.0.0"

// apiVersions are those whose key operations have the shapes of this package.
var apiVersions = map[string]bool{
	"2016-10-01": true, "7.0": true, "7.1": true, "7.2": true, "7.3": true,
	"7.4": true, "7.5": true, "7.6": true, "2025-07-01": true,
	// Previews that released SDKs ask for.
	"7.3-preview": true, "7.4-preview.1": true, "7.5-preview.1": true, "7.6-preview.1": true, "7.6-preview.2": true,
}

// route is one operation of the data plane.
type route struct {
	method     string
	shape      string // as target.shape
	versioned  bool   // the path may name a version
	permission string
	event      string // its name in the audit log
	status     int
	handle     func(ctx context.Context, s *Service, c *call) (any, error)
}

// routes is everything the data plane does. Bodies are bounded by maxBodyBytes, that of
// a restore by maxBackupBytes.
var routes = []route{
	{"GET", "keys", false, "list", "KeyList", 200, listKeys},
	{"POST", "keys/restore", false, "restore", "KeyRestore", 200, restoreKey},
	{"GET", "keys/{key}", true, "get", "KeyGet", 200, getKey},
	{"PUT", "keys/{key}", false, "import", "KeyImport", 200, importKeyHandler},
	{"GET", "keys/{key}/versions", false, "list", "KeyListVersions", 200, listVersions},
	{"POST", "keys/{key}/create", false, "create", "KeyCreate", 200, createKey},
	{"PATCH", "keys/{key}", true, "update", "KeyUpdate", 200, updateKey},
	{"DELETE", "keys/{key}", false, "delete", "KeyDelete", 200, deleteKey},
	{"POST", "keys/{key}/backup", false, "backup", "KeyBackup", 200, backupKey},
	{"POST", "keys/{key}/rotate", false, "rotate", "KeyRotate", 200, rotateKey},
	{"GET", "keys/{key}/rotationpolicy", false, "getrotationpolicy", "KeyRotationPolicyGet", 200, getRotation},
	{"PUT", "keys/{key}/rotationpolicy", false, "setrotationpolicy", "KeyRotationPolicySet", 200, putRotation},
	{"GET", "deletedkeys", false, "list", "KeyListDeleted", 200, listDeleted},
	{"GET", "deletedkeys/{key}", false, "get", "KeyGetDeleted", 200, getDeleted},
	{"POST", "deletedkeys/{key}/recover", false, "recover", "KeyRecover", 200, recoverKey},
	{"DELETE", "deletedkeys/{key}", false, "purge", "KeyPurge", 204, purgeKey},
	{"POST", "keys/{key}/encrypt", true, opEncrypt, "KeyEncrypt", 200, operate},
	{"POST", "keys/{key}/decrypt", true, opDecrypt, "KeyDecrypt", 200, operate},
	{"POST", "keys/{key}/wrapkey", true, opWrap, "KeyWrap", 200, operate},
	{"POST", "keys/{key}/unwrapkey", true, opUnwrap, "KeyUnwrap", 200, operate},
	{"POST", "keys/{key}/sign", true, opSign, "KeySign", 200, operate},
	{"POST", "keys/{key}/verify", true, opVerify, "KeyVerify", 200, operate},
	{"POST", "keys/{key}/release", true, "release", "KeyRelease", 200, releaseKey},
	{"GET", "keys/{key}/attestation", true, "get", "KeyGetAttestation", 200, attestKey},
}

// hsmRoutes are those that managed HSMs have besides.
var hsmRoutes = []route{
	{"POST", "rng", false, "rng", "RandomBytes", 200, randomBytes},
	{"GET", "roleassignments", false, "readassignments", "RoleAssignmentList", 200, listAssignments},
	{"GET", "roleassignments/{name}", false, "readassignments", "RoleAssignmentGet", 200, getAssignment},
	{"PUT", "roleassignments/{name}", false, "writeassignments", "RoleAssignmentCreate", 201, putAssignment},
	{"DELETE", "roleassignments/{name}", false, "deleteassignments", "RoleAssignmentDelete", 200, deleteAssignment},
	{"GET", "roledefinitions", false, "readdefinitions", "RoleDefinitionList", 200, listDefinitions},
	{"GET", "roledefinitions/{name}", false, "readdefinitions", "RoleDefinitionGet", 200, getDefinition},
	{"PUT", "roledefinitions/{name}", false, "writeassignments", "RoleDefinitionCreate", 201, refuseDefinition},
	{"GET", "securitydomain", false, "securitydomain", "SecurityDomainGet", 200, refuseSecurityDomain},
	{"POST", "securitydomain", false, "securitydomain", "SecurityDomainDownload", 200, refuseSecurityDomain},
	{"POST", "backup", false, "fullbackup", "BackupFull", 200, refuseFullBackup},
	{"PUT", "restore", false, "fullbackup", "RestoreFull", 200, refuseFullBackup},
}

// routesByWord are shapes in which a name is a word of the service.
var routesByWord = map[string]string{"POST keys/{key} restore": "keys/restore"}

// findRoute finds the operation, or says why there is none.
func findRoute(v Vault, method string, t target) (route, error) {
	shape := t.shape()
	if word, ok := routesByWord[method+" "+shape+" "+strings.ToLower(t.key)]; ok {
		shape = word
	}
	all := routes
	if v.HSM {
		all = slices.Concat(routes, hsmRoutes)
	}
	for _, r := range all {
		if r.method == method && r.shape == shape && (r.versioned || t.version == "") {
			return r, nil
		}
	}
	return route{}, methodNotAllowed(printable(method), printable(t.operation))
}

// call is a request on its way, and what is known of it so far.
type call struct {
	r         *http.Request
	id        string // x-ms-request-id
	began     time.Time
	vault     Vault
	caller    entra.Caller
	target    target
	route     route
	body      []byte
	keyID     string // what the audit log names
	challenge string // WWW-Authenticate of a 401
}

// Handler serves the data plane of all vaults, chosen by the request's Host.
func (s *Service) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{r: r, id: uuid.NewString(), began: time.Now()}
		answer, err := s.serve(w, c)
		h := w.Header()
		h.Set("X-Ms-Request-Id", c.id)
		if theirs := r.Header.Get("X-Ms-Client-Request-Id"); theirs != "" {
			h.Set("X-Ms-Client-Request-Id", bounded(theirs, 64))
		}
		h.Set("X-Ms-Keyvault-Service-Version", serviceVersion)
		if c.vault.Location != "" {
			h.Set("X-Ms-Keyvault-Region", c.vault.Location)
		}
		h.Set("Cache-Control", "no-cache")
		h.Set("Pragma", "no-cache")
		h.Set("Expires", "-1")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
		if err != nil {
			s.refuse(w, c, err)
			return
		}
		s.audit(c, c.route.status, nil)
		write(w, c.route.status, answer)
	})
}

// serve makes a request's checks in the vault's order, then does it. The token
// comes first: clients send their first request without one, and without a body,
// to learn where to get it.
func (s *Service) serve(w http.ResponseWriter, c *call) (any, error) {
	ctx := c.r.Context()
	var err error
	if c.vault, err = s.vaultOfHost(ctx, c.r.Host); errors.Is(err, store.ErrNotFound) {
		return nil, vaultNotFound(c.r.Host)
	} else if err != nil {
		return nil, err
	}
	check := s.entra.Vault
	if c.vault.HSM {
		check = s.entra.ManagedHSM
	}
	if c.caller, err = check(c.r, c.vault.Directory); err != nil {
		var refused *entra.TokenError
		if !errors.As(err, &refused) {
			return nil, err
		}
		c.challenge = s.challenge(c.vault)
		return nil, &apiError{status: http.StatusUnauthorized, code: "Unauthorized", message: refused.Message}
	}
	if err := c.vault.admit(c.r, c.caller); err != nil {
		return nil, err
	}
	if version := c.r.URL.Query()["api-version"]; len(version) != 1 || !apiVersions[version[0]] {
		return nil, badParameter("The specified version is not recognized. Consider using the latest supported version 2025-07-01.")
	}
	if c.target, err = c.vault.parse(c.r.URL.EscapedPath()); err != nil {
		return nil, err
	}
	if c.target.key != "" {
		c.keyID = s.keyID(c.vault, c.target.key, c.target.version)
	}
	if c.route, err = findRoute(c.vault, c.r.Method, c.target); err != nil {
		return nil, err
	}
	if err := s.permit(ctx, c); err != nil {
		return nil, err
	}
	if err := s.spend(c.vault, false, 1); err != nil {
		return nil, err
	}
	limit := int64(maxBodyBytes)
	if c.route.shape == "keys/restore" {
		limit = maxBackupBytes
	}
	if c.body, err = io.ReadAll(http.MaxBytesReader(w, c.r.Body, limit)); err != nil {
		return nil, badParameter("The request body could not be read, or has more than %d bytes.", limit)
	}
	return c.route.handle(ctx, s, c)
}

// parse reads a path: an HSM has roles of its own besides keys.
func (v Vault) parse(path string) (target, error) {
	if v.HSM {
		if role, err := parseRolePath(path); role != nil || err != nil {
			return target{role: role}, err
		}
	}
	return parsePath(path)
}

// refuse answers an error; one that is no refusal is ours, and its cause goes to
// the log alone.
func (s *Service) refuse(w http.ResponseWriter, c *call, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		s.log.ErrorContext(c.r.Context(), "vault failed", slog.String("request_id", c.id), slog.Any("err", err))
		e = &apiError{status: http.StatusInternalServerError, code: "InternalServerError", message: "An internal error has occurred. The request id leads to its cause in the log."}
	}
	s.audit(c, e.status, e)
	if c.challenge != "" {
		w.Header().Set("WWW-Authenticate", c.challenge)
	}
	if e.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.after))
	}
	type code struct {
		Code string `json:"code"`
	}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Inner   *code  `json:"innererror,omitempty"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = e.code, e.message
	if e.inner != "" {
		body.Error.Inner = &code{e.inner}
	}
	write(w, e.status, body)
}

func write(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // nothing can be done about a client that went away
}
