// Package arm holds what all Azure resource providers share: resource ids, the
// error envelope, the order of a request's checks, api-versions, conditional
// requests, paging and PATCH merging. It knows no resource type.
package arm
