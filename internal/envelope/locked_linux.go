package envelope

import (
	"fmt"
	"os"
	"syscall"
)

// From linux/mman.h; the syscall package has only the older ones.
const (
	madvDontDump   = 16
	madvWipeOnFork = 18
)

// lockedPage makes one page of locked memory.
func lockedPage() ([]byte, error) {
	page, err := syscall.Mmap(-1, 0, os.Getpagesize(), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map memory for keys: %w", err)
	}
	err = syscall.Mlock(page)
	if err != nil {
		err = fmt.Errorf("lock memory for keys (see RLIMIT_MEMLOCK): %w", err)
	}
	for _, advice := range []int{madvDontDump, madvWipeOnFork} {
		if err == nil {
			if err = syscall.Madvise(page, advice); err != nil {
				err = fmt.Errorf("keep keys out of dumps and forks: %w", err)
			}
		}
	}
	if err != nil {
		_ = syscall.Munmap(page) // nothing is in it
		return nil, err
	}
	return page, nil
}
