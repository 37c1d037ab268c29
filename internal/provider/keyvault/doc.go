// Package keyvault is the resource provider Microsoft.KeyVault.
package keyvault
