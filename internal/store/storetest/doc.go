// Package storetest is the contract of package store as one test suite: every
// engine passes it.
package storetest
