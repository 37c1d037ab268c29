package envelope

import (
	"sync"
)

// Root keys live in memory of their own: locked, so that it is not swapped out, and left
// out of core dumps and of forked processes. Where the system does not give such memory
// (see LockedMemory) they are on the heap, like the other keys.

const slotBytes = keyBytes

// arena hands out slots of locked pages. A page is never given back.
var arena struct {
	mu   sync.Mutex
	free [][]byte
	err  error // why there is none; set once
}

// LockedMemory says whether root keys are in locked memory: nil, or why they are not.
func LockedMemory() error {
	b := lockedSlot()
	if b != nil {
		freeSlot(b)
	}
	arena.mu.Lock()
	defer arena.mu.Unlock()
	return arena.err
}

// lockedSlot returns zeroed bytes for a key, or nil.
func lockedSlot() []byte {
	arena.mu.Lock()
	defer arena.mu.Unlock()
	if len(arena.free) == 0 {
		page, err := lockedPage()
		if err != nil {
			arena.err = err
			return nil
		}
		for ; len(page) >= slotBytes; page = page[slotBytes:] {
			arena.free = append(arena.free, page[:slotBytes:slotBytes])
		}
	}
	b := arena.free[len(arena.free)-1]
	arena.free = arena.free[:len(arena.free)-1]
	return b
}

// freeSlot overwrites a slot and takes it back.
func freeSlot(b []byte) {
	clear(b)
	arena.mu.Lock()
	defer arena.mu.Unlock()
	arena.free = append(arena.free, b)
}
