package app

import (
	"errors"
	"fmt"
	"syscall"
)

const prSetDumpable = 4 // linux/prctl.h

// keepFromDumps sets the limit for cores to zero, and makes the process one that is not
// dumped and whose memory only root reads.
func keepFromDumps() error {
	var errs []error
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("set RLIMIT_CORE to 0: %w", err))
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); errno != 0 {
		errs = append(errs, fmt.Errorf("clear PR_SET_DUMPABLE: %w", errno))
	}
	return errors.Join(errs...)
}
