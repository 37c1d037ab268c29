// Package storetest is the contract of package store as one test suite.
package storetest
