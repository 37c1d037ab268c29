// Package pebble is the embedded engine: Pebble.
package pebble
