// Package fluidrelay is the resource provider Microsoft.FluidRelay.
package fluidrelay
