// Package vault is the embedded Key Vault: the data-plane API of keys, and the
// keys behind it. Private keys are sealed under the installation's service key and
// never leave this package.
//
// Invariants: every request is authorised by token and access policy before its
// body is looked at; a disabled or deleted key version does no work; what a
// vault refuses, it refuses with Key Vault's own status, code and inner code.
package vault
