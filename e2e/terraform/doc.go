// Package terraform runs the clients that Terraform's azurerm provider is made of
// (hashicorp/go-azure-sdk) against a server process, pointed here as metadata_host
// does. It is a module of its own: the SDK is large, and only this needs it. 'make
// terraform' runs it.
package terraform
