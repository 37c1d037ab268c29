// Package entra is the embedded directory service: directories, applications,
// managed identities, the tokens they are given, and who may do what in the
// management plane. It imitates the endpoints that Azure's identity clients use.
//
// Invariants: a client secret is kept only as a salted hash; a token is accepted
// only with the right issuer, audience, signature and time; ids of a deleted
// principal never come back.
package entra
