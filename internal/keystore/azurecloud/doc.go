// Package azurecloud is the way to key stores in Azure itself: which host names they
// have in each of its clouds, which credential stands for which managed identity, a
// transport that goes to them and nowhere else, and, where the resource manager may be
// asked, in which region and tenant an identity or a key store is.
//
// The keys are used through package keystore, as those of embedded vaults are. Nothing
// is retried here, and no secret is kept but in the credential that needs it.
package azurecloud
