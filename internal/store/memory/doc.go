// Package memory is an engine in memory, with faults on demand, for tests.
package memory
