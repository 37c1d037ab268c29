// Package resources is the resource provider of subscriptions, resource groups
// and providers.
package resources
