// Package managedidentity is the resource provider Microsoft.ManagedIdentity.
package managedidentity
