package app

import (
	"bytes"
	"log/slog"
	"syscall"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
)

func TestHardenedProcessIsNotDumped(t *testing.T) {
	var log bytes.Buffer
	Harden(slog.New(slog.NewTextHandler(&log, nil)))
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil || limit != (syscall.Rlimit{}) {
		t.Errorf("RLIMIT_CORE = %+v, %v; want 0", limit, err)
	}
	const prGetDumpable = 3
	if dumpable, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prGetDumpable, 0, 0); errno != 0 || dumpable != 0 {
		t.Errorf("PR_GET_DUMPABLE = %d, %v; want 0", dumpable, errno)
	}
	if envelope.LockedMemory() == nil && log.Len() > 0 {
		t.Errorf("warned though all was done: %s", log.String())
	}
}
