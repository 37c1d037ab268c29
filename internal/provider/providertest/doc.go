// Package providertest is a management plane for tests of resource providers: the
// real directory service, vaults, custody and router over an engine in memory,
// wired as a server wires them.
package providertest
