// Package memory is an engine in memory, for tests: it obeys the contract of
// package store, fails on demand in the ways that disks and networks do, and lets
// a test change what is stored.
package memory
