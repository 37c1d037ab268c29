package main

import (
	"path/filepath"
	"regexp"
	"testing"
)

// Load can be put on local mode without any key.
func TestBenchDrivesLocalMode(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	server := start(t, "serve", data, "relay at", "--local")
	defer server.end(t)
	url := regexp.MustCompile(`http://[0-9.:]+`).FindString(server.line)

	var report struct {
		Sequenced int64 `json:"sequenced"`
	}
	output(t, &report, "bench", "--endpoint", url, "--tenant", "local", "--ops", "20", "--writers", "2", "--readers", "1")
	if report.Sequenced != 20 {
		t.Errorf("%d ops were sequenced, want 20", report.Sequenced)
	}
}
