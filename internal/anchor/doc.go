// Package anchor keeps a file of head anchors: for each document the newest value of a
// fixed size, which says how far its log had come. The file lies elsewhere than the logs,
// so that logs that were put back to an older state are found out.
//
// It knows nothing of what is in a value: package custody authenticates them. The file's
// layout is in docs/formats/anchors.md.
package anchor
