// Package azcli runs Debian's azure-cli and Azure's Python SDK, unmodified, against a
// server process: as a cloud of its own, and under the public cloud's names through
// 'tidelock proxy'. Build tag azcli; 'make azcli' runs it.
//
// Debian's azure-cli 2.45 cannot do everything: its "keyvault key" and "role
// assignment" commands fail before they send anything, and its fluid-relay
// extension is on no mirror that a build machine can count on. There "az rest" sends the
// requests, and the Python SDK (azure-mgmt-fluidrelay) stands for the extension.
package azcli
