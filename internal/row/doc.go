// Package row keeps management data as typed tables: values as sealed JSON rows
// of a store, under names that are keyed hashes. It knows nothing of what the
// values mean; a partition and an id are the caller's to make canonical.
package row
