package pebble

import "github.com/tidelock/tidelock/internal/store"

// Options of the engine.
type Options struct {
	Dir string // made if absent
}

// Open opens or creates the engine in o.Dir. A directory of another format
// version, or one that another process has open, is an error that says so.
func Open(o Options) (store.Store, error) { panic("todo") }
