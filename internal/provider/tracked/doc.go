// Package tracked holds what all resource providers do alike with a tracked
// resource, one that has a location, tags and a history: its sealed row, the
// regions it may be in, its systemData, and the serialisation of its writes.
package tracked
