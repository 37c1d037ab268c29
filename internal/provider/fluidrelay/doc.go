// Package fluidrelay is the resource provider Microsoft.FluidRelay: relay servers,
// their tenant keys, and the rules under which a customer-managed key (CMK) may
// protect one.
//
// Invariants: a server and the wrap record of its root key are stored in one write,
// and only after every rule was checked against what would then be stored; a refused
// request changes nothing; the key store is asked only as an identity that is
// assigned to the server, by a caller who may assign it; key URL and identity ids are
// returned as they were sent.
//
// Where things are: routes.go is the surface; change.go is PUT and PATCH;
// encryption.go has the rules of CMK; identity.go those of identities; tenants.go is
// what the data plane looks up. The rules of CMK are those of the Azure article
// "Customer-managed keys for Azure Fluid Relay encryption".
package fluidrelay
