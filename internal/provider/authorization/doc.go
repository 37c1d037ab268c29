// Package authorization is the resource provider Microsoft.Authorization: the built-in
// roles, and who has which of them where. The check itself is package entra's.
//
// Roles of one's own, conditions and groups are refused with a clear error: an
// assignment that is stored is one that is honoured in full.
package authorization
