package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// running is a server in this process.
type running struct {
	stop func()
	code chan int
	err  *bytes.Buffer
	line string // in which it said so
}

// start runs a server command and returns once it says that it serves.
func start(t *testing.T, command, data, ready string, flags ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	s := &running{stop: cancel, code: make(chan int, 1), err: &bytes.Buffer{}}
	go func() {
		args := []string{command, "--data", data, "--relay", "127.0.0.1:0", "--management", "127.0.0.1:0"}
		code := run(ctx, append(args, flags...), w, s.err)
		w.Close()
		s.code <- code
	}()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if s.line = lines.Text(); strings.Contains(s.line, ready) {
			go io.Copy(io.Discard, r) // the rest of the banner
			return s
		}
	}
	t.Fatalf("tidelock %s ended with %d before it served: %s", command, <-s.code, s.err)
	return nil
}

// end stops the server as Ctrl-C does.
func (s *running) end(t *testing.T) {
	t.Helper()
	s.stop()
	if code := <-s.code; code != 0 {
		t.Errorf("exit code %d after an orderly stop: %s", code, s.err)
	}
}

// output runs a command that must succeed and decodes what it prints.
func output(t *testing.T, out any, args ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append(args, "--output", "json"), &stdout, &stderr); code != 0 {
		t.Fatalf("tidelock %s: exit code %d: %s", strings.Join(args, " "), code, &stderr)
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		t.Fatalf("tidelock %s printed %q: %v", strings.Join(args, " "), &stdout, err)
	}
}

type shownRelay struct {
	Properties struct {
		TenantID   string `json:"frsTenantId"`
		Encryption struct {
			CMK struct {
				URL string `json:"keyEncryptionKeyUrl"`
			} `json:"customerManagedKeyEncryption"`
		} `json:"encryption"`
	} `json:"properties"`
}

func TestQuickstartKeepsWhatItMade(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")

	server := start(t, "quickstart", data, "is serving")
	var first shownRelay
	output(t, &first, "relay", "show", "--data", data)
	var keys, again map[string]string
	output(t, &keys, "relay", "keys", "--data", data)
	if first.Properties.TenantID == "" || first.Properties.Encryption.CMK.URL == "" || len(keys["key1"]) != 32 {
		t.Fatalf("the relay is not as quickstart makes it: %+v, %d keys", first, len(keys))
	}
	server.end(t)

	server = start(t, "quickstart", data, "is serving")
	var second shownRelay
	output(t, &second, "relay", "show", "--data", data)
	output(t, &again, "relay", "keys", "--data", data)
	if second.Properties != first.Properties {
		t.Errorf("after the second quickstart the relay is %+v, want %+v", second, first)
	}
	if again["key1"] != keys["key1"] || again["key2"] != keys["key2"] {
		t.Error("after the second quickstart the tenant's keys are others")
	}
	server.end(t)

	server = start(t, "serve", data, "relay at")
	output(t, &second, "relay", "show", "--data", data)
	if second.Properties != first.Properties {
		t.Errorf("after serve the relay is %+v, want %+v", second, first)
	}
	server.end(t)
}

func TestDataUnderAnotherServiceKeyIsRefused(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	start(t, "quickstart", data, "is serving").end(t)

	other := bytes.Repeat([]byte{7}, 32)
	if err := os.WriteFile(filepath.Join(data+".keys", "service.key"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"serve", "--data", data, "--relay", "127.0.0.1:0", "--management", "127.0.0.1:0"}, io.Discard, &stderr)
	if want := "not the one this data is sealed under"; code != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit code %d, %q; want 1 and %q", code, &stderr, want)
	}
}

func TestDataInUseIsRefused(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	server := start(t, "quickstart", data, "is serving")
	defer server.end(t)

	var stderr bytes.Buffer
	code := run(t.Context(), []string{"serve", "--data", data, "--relay", "127.0.0.1:0", "--management", "127.0.0.1:0"}, io.Discard, &stderr)
	if want := "in use"; code != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit code %d, %q; want 1 and %q", code, &stderr, want)
	}
}
