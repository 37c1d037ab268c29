// Package envelope holds the sealed formats: what every byte at rest looks like,
// and the only code that seals and opens. It imports the standard library alone.
package envelope
