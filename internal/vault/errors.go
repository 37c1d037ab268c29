package vault

import (
	"fmt"
	"net/http"
)

// apiError is a vault's refusal: {"error":{"code","message","innererror":{"code"}}}.
type apiError struct {
	status  int
	code    string
	inner   string // "" for none
	message string
	after   int // seconds, for Retry-After; 0 for none
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func badParameter(format string, args ...any) error {
	return &apiError{status: http.StatusBadRequest, code: "BadParameter", message: fmt.Sprintf(format, args...)}
}

func forbidden(inner, format string, args ...any) error {
	return &apiError{status: http.StatusForbidden, code: "Forbidden", inner: inner, message: fmt.Sprintf(format, args...)}
}

func conflict(inner, format string, args ...any) error {
	return &apiError{status: http.StatusConflict, code: "Conflict", inner: inner, message: fmt.Sprintf(format, args...)}
}

// keyNotFound is the answer for an unknown or deleted key or version.
func keyNotFound(name, version string) error {
	if version != "" {
		name += "/" + version
	}
	return &apiError{status: http.StatusNotFound, code: "KeyNotFound", message: "A key with (name/id) " + name +
		" was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"}
}

func deletedKeyNotFound(name string) error {
	return &apiError{status: http.StatusNotFound, code: "KeyNotFound", message: "Deleted Key not found: " + name}
}

func deletedButRecoverable(name string) error {
	return conflict("ObjectIsDeletedButRecoverable", "Key %s is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged.", name)
}

// vaultNotFound is for clients that reach us although the vault's name should not
// resolve; a real vault's client sees a failure of DNS instead.
func vaultNotFound(host string) error {
	return &apiError{status: http.StatusNotFound, code: "VaultNotFound", message: fmt.Sprintf("There is no vault at %q.", host)}
}

// methodNotAllowed is what a vault says of a method and path that do not belong
// together, and of operations it does not have.
func methodNotAllowed(method, operation string) error {
	return badParameter("Method %s does not allow operation '%s'", method, operation)
}
