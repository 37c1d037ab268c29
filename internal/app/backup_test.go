package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
)

// TestScenario39WhatACopyNeeds: a copy of the data says which versions of the service key it needs, and
// whether the retention key still opens it.
func TestScenario39WhatACopyNeeds(t *testing.T) {
	r := newRig(t)
	document := writeDocument(t, r.endpoint)
	r.stop()
	dir := t.TempDir()
	copied, keys := filepath.Join(dir, "copy"), filepath.Join(dir, "keys")
	for from, to := range map[string]string{r.data: copied, r.data + ".keys": keys} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(keys string) app.BackupReport {
		t.Helper()
		got, err := app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: copied, Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	opens := func(what string, got app.BackupReport) {
		t.Helper()
		if got.State != "Opens" || len(got.ServiceKeys) != 1 || !got.ServiceKeys[0].Present || len(got.Relays) != 1 ||
			!strings.Contains(got.Relays[0].KeyID, "/keys/relay-key/") || got.Relays[0].OpenUntil == nil || got.Missing != 0 {
			t.Errorf("%s: %+v", what, got)
		}
	}
	opens("with the secrets of its time", verify(keys))

	r.start()
	if _, err := r.ownKey(http.MethodPost, "rotateServiceKey"); err != nil {
		t.Fatal(err)
	}
	r.resealed()
	r.stop()
	opens("with the installation's secrets after a rotation", verify(r.data+".keys"))

	if err := os.Remove(filepath.Join(keys, "retention.key")); err != nil {
		t.Fatal(err)
	}
	if got := verify(keys); got.State != "Incomplete" || got.Missing != 1 || !strings.Contains(got.Relays[0].Problem, "missing") {
		t.Errorf("without the retention key: %+v", got)
	}
	if err := os.WriteFile(filepath.Join(keys, "service.key"), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: copied, Keys: keys}); err == nil || !strings.Contains(err.Error(), "not the service key of this data") {
		t.Errorf("with another service key: %v", err)
	}

	// The newest data needs the newest version, and a file of before lacks it.
	first, err := app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: r.data})
	if err != nil || len(first.ServiceKeys) != 2 || first.State != "Opens" {
		t.Errorf("the data of now: %+v, %v", first, err)
	}

	// The copy is restored, and goes on by itself.
	before := r.data
	r.data = copied
	if err := os.CopyFS(copied+".keys", os.DirFS(before+".keys")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(copied+".keys", "anchors")); err != nil { // it is of the present, and the copy is not
		t.Fatal(err)
	}
	r.start()
	if got, _ := r.ask(document); got.status != http.StatusOK {
		t.Errorf("from the copy: %d %s", got.status, got.body)
	}
}
