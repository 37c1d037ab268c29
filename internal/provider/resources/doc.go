// Package resources is the resource provider of subscriptions, resource groups and
// providers, and the list of everything that is in them. It also serves the cloud's
// metadata, by which clients find their way before they have a token.
//
// Deleting a resource group deletes what is in it first, in the request; when that
// fails half way, the group stays with the rest and can be deleted again.
package resources
