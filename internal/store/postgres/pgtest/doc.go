// Package pgtest runs real PostgreSQL servers for tests: on loopback, in a temporary
// directory, ended with the test process. Servers can be killed, started again, given
// a synchronous standby, and failed over to it. Patroni can do that for three of them.
//
// Tests that use it run where the variable TIDELOCK_POSTGRES is set, as 'make postgres'
// does, and are skipped otherwise: the servers are no part of Go.
package pgtest
