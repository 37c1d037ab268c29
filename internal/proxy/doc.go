// Package proxy is an HTTP proxy that knows the CONNECT method alone: it leads tunnels
// to the addresses that its configuration gives for a host and port, and refuses all
// others. It sees ciphertext only; whoever is at the end of a tunnel speaks TLS with
// the client. It knows nothing of Azure's names.
//
// Invariants: nothing is dialled but what the configuration names; who stops the proxy
// ends its tunnels.
package proxy
