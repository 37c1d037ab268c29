// Package e2e holds the suites that run a real server process: the Node tests
// beside this file drive it with unmodified Fluid clients (2.x here, 1.x in v1, the
// 3.x driver in driver3, each with packages of its own), the Go tests (build tag
// e2e) kill it under load.
package e2e
