// Package keyvault is the resource provider Microsoft.KeyVault: vaults, their access
// policies and network rules, managed HSMs, and those that were deleted and can be
// recovered. The vaults and HSMs themselves, and the keys in them, are package vault's.
//
// Invariants: the resource and the settings that the data plane obeys are stored in one
// write; what the data plane cannot honour (virtual networks, private endpoints) is
// refused, not ignored; soft delete and purge protection are never turned off.
package keyvault
