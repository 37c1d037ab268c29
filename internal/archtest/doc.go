// Package archtest holds the rules of the layout as tests: who may import whom,
// and that every package says what it is for.
package archtest
