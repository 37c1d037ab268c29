package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Server is what the service's process took for a run.
type Server struct {
	CPUSeconds        float64 `json:"cpuSeconds"`
	CPUPerOp          float64 `json:"cpuPerOpMicros"`       // 0 without ops
	CPUPerDelivery    float64 `json:"cpuPerDeliveryMicros"` // all of the CPU, by deliveries; 0 without
	ResidentBytes     int64   `json:"residentBytes"`        // at the end
	ResidentPerClient int64   `json:"residentBytesPerClient"`
}

// usage is what a process has taken so far. Source: proc_pid_stat(5), Linux.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
}

// ticksPerSecond is the unit of CPU times in /proc: USER_HZ, 100 on all platforms of Go.
const ticksPerSecond = 100

func usageOf(pid int) (usage, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, fmt.Errorf("the server's process: %w", err)
	}
	// The second field, the name, may hold spaces; it ends with the last bracket.
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	const user, system, pages = 11, 12, 21 // counted from the third field
	if len(fields) <= pages {
		return usage{}, fmt.Errorf("the server's process: %d fields in its stat", len(fields))
	}
	number := func(i int) int64 {
		n, parseErr := strconv.ParseInt(string(fields[i]), 10, 64)
		if parseErr != nil {
			err = fmt.Errorf("the server's process: %w", parseErr)
		}
		return n
	}
	u := usage{
		cpu:      time.Duration(number(user)+number(system)) * time.Second / ticksPerSecond,
		resident: number(pages) * int64(os.Getpagesize()),
	}
	return u, err
}

// taken is what a run took: before it connected its clients, when it began to measure,
// at its end.
func taken(idle, start, end usage, r Report) *Server {
	s := &Server{CPUSeconds: (end.cpu - start.cpu).Seconds(), ResidentBytes: end.resident}
	s.ResidentPerClient = (end.resident - idle.resident) / int64(r.Writers+r.Readers)
	if r.Sequenced > 0 {
		s.CPUPerOp = s.CPUSeconds * 1e6 / float64(r.Sequenced)
	}
	if r.Deliveries > 0 {
		s.CPUPerDelivery = s.CPUSeconds * 1e6 / float64(r.Deliveries)
	}
	return s
}
