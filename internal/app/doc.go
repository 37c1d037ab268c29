// Package app wires Tidelock by hand: the data directory and its keys, the store,
// custody, the relay, the directory, the vault and the resource providers, and
// the listeners in front of them. It is the only package that may import all
// others, and it holds no rule of its own but the order of start and stop.
//
// A data directory D holds sealed values only. The secrets are beside it, in
// D.keys, so that a copy of D alone opens nothing:
//
//	D/                 the store (see docs/formats/store.md), unless it is a database
//	D.keys/service.key 32 bytes: the service key, under which all rows are sealed
//	D.keys/ca.key      private key of the local certificate authority (PEM)
//	D.keys/ca.crt      its certificate (PEM): what clients are told to trust
//	D.keys/public-ca.key, public-ca.crt  the authority for the public cloud's names (PEM); see 'tidelock proxy'
//	D.keys/identity-header  what workloads show the identity endpoint
//	D.keys/admin.json  how the command line reaches this server, with its secret
package app
