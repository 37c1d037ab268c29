// Package vault is the embedded Key Vault and Managed HSM: the data-plane API of keys,
// and the keys behind it. Private keys are sealed under the installation's service key and
// never leave this package, or are in a token and never leave that.
//
// Invariants: every request is authorised by token and permission before its
// body is looked at; a disabled or deleted key version does no work; what a
// vault refuses, it refuses with Key Vault's own status, code and inner code. What time
// brings (rotation by policy, notices of expiry, the purge of what was deleted) is done
// by Run, and a deletion that is due counts even before.
//
// Rows, all sealed under the service key and named by keyed hashes:
//
//	vaults              by name, of managed HSMs "hsm:" and the name
//	vault-keys          one partition per vault, by key name: the list of versions
//	vault-key-versions  one partition per key, by version: attributes, private key
//	hsm-role-assignments  one partition per managed HSM, by name
//	vault-audit           one partition per vault, by number: who asked for what
//	vault-audit-heads     by vault: the first and last number
//
// Source of the shapes: Azure Key Vault REST API, keys, 7.4 to 2025-07-01.
package vault
