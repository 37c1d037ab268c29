// Package cluster runs three real nodes on a real PostgreSQL with a synchronous standby,
// has clients work on them while nodes are killed, paused and cut off, the database fails
// over and the customer's key is turned off and on, and then compares what every client
// saw with what is stored. Run it with 'make cluster'.
package cluster
