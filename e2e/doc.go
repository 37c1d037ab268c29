// Package e2e holds the suites that run a real server process: the Node tests
// beside this file drive it with unmodified Fluid clients, the Go tests (build
// tag e2e) kill it under load.
package e2e
