// Package entra is the embedded directory service: directories, applications,
// managed identities, the tokens they are given, and who may do what in the
// management plane. It imitates the endpoints that Azure's identity clients use.
//
// An application proves itself by a secret or a certificate; it and a managed
// identity also by a token of another OpenID provider that it trusts (a federated
// credential). Such a provider is asked through a guarded client (issuers.go).
//
// Invariants: a client secret is kept only as a salted hash; a token is accepted
// only with the right issuer, audience, signature and time, and only while its
// principal exists; ids of a deleted principal never come back.
//
// Rows, all sealed under the service key and named by keyed hashes:
//
//	entra-directories       by directory id
//	entra-principals        by object id
//	entra-clients           client id -> object id
//	entra-identities        ARM resource id of a managed identity -> object id
//	entra-externals         issuer and claim of an external principal -> object id
//	entra-role-assignments  one partition per object id, by role and scope
//	entra-role-assignment-names  the same rows by name
//	entra-signing-keys      by number, from 1
package entra
