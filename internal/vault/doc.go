// Package vault is the embedded Key Vault: the data-plane API of keys, and the
// keys behind it. Private keys are sealed under the installation's service key and
// never leave this package.
//
// Invariants: every request is authorised by token and access policy before its
// body is looked at; a disabled or deleted key version does no work; what a
// vault refuses, it refuses with Key Vault's own status, code and inner code. What time
// brings (rotation by policy, notices of expiry, the purge of what was deleted) is done
// by Run, and a deletion that is due counts even before.
//
// Rows, all sealed under the service key and named by keyed hashes:
//
//	vaults              by name
//	vault-keys          one partition per vault, by key name: the list of versions
//	vault-key-versions  one partition per key, by version: attributes, private key
//
// Source of the shapes: Azure Key Vault REST API, keys, 7.4 to 2025-07-01.
package vault
