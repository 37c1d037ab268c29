// Package arm holds what all Azure resource providers share: resource ids, the
// error envelope, the order of a request's checks, api-versions, conditional
// requests, paging and PATCH merging. It knows no resource type.
//
// Invariants: a handler sees only requests that were authenticated and authorised,
// in a subscription and resource group that exist; paths match without regard to
// case; nothing but an Error's code, message, target and details leaves the
// process; writes in a resource group never overlap the group's deletion.
//
// Where things are: router.go is the order of checks; pattern.go matches paths;
// answer.go writes headers, bodies and errors; request.go is what handlers get.
// The rules are those of Azure Resource Manager's contract for resource providers.
package arm
