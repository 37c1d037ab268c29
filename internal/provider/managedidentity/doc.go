// Package managedidentity is the resource provider Microsoft.ManagedIdentity:
// user-assigned identities and their federated credentials. The principal behind an
// identity, and what it trusts, is the directory service's; here is the resource, with
// its location and tags.
//
// Invariant: an identity made again after its deletion has new ids, so that what
// was granted to the old one does not come back. Ids are shown with lower-case
// "resourcegroups", as the real service does.
package managedidentity
