package app

import (
	"log/slog"

	"github.com/tidelock/tidelock/internal/envelope"
)

// Harden keeps what is in this process's memory there: no core dumps, no other process of
// the user that reads it, root keys in locked memory. What the system does not permit is
// said in the log, and the server serves all the same. For a process that serves only.
func Harden(log *slog.Logger) {
	if err := keepFromDumps(); err != nil {
		log.Warn("core dumps of this process cannot be ruled out, and keys would be in them", "err", err)
	}
	if err := envelope.LockedMemory(); err != nil {
		log.Warn("root keys are in memory that may be swapped out: encrypt the swap, or allow locked memory", "err", err)
	}
}
