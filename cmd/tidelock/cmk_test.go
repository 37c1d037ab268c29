package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type shownStatus struct {
	Properties struct {
		State, Reason, Fix, RotationMode string
		Key                              string `json:"currentVersionedKeyIdentifier"`
	} `json:"properties"`
}

// awaitState asks for the status until it is that.
func awaitState(t *testing.T, data, want string) shownStatus {
	t.Helper()
	for limit := time.Now().Add(70 * time.Second); ; {
		var s shownStatus
		output(t, &s, "cmk", "status", "--data", data)
		if s.Properties.State == want {
			return s
		}
		if time.Now().After(limit) {
			t.Fatalf("status %+v, want %s", s, want)
		}
	}
}

// The key's owner sees its state without a client being there, after a restart too.
func TestCMKCommands(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	server := start(t, "quickstart", data, "is serving")
	s := awaitState(t, data, "Healthy")
	if !strings.Contains(s.Properties.Key, "/keys/relay-key/") {
		t.Errorf("the key in use is %q", s.Properties.Key)
	}
	var made struct{ KID string }
	output(t, &made, "keyvault", "key", "create", "--vault", "quickstart-vault", "--name", "relay-key", "--data", data)
	var check struct{ Usable bool }
	output(t, &check, "cmk", "check", "--data", data)
	if !check.Usable {
		t.Error("check: the configured key is not usable")
	}
	output(t, &check, "cmk", "check", "--data", data, "--key-url", made.KID)
	if !check.Usable {
		t.Error("check: a new version is not usable")
	}
	var history []struct {
		Generation int
		InForce    bool
		KeyID      string `json:"keyIdentifier"`
	}
	output(t, &history, "cmk", "history", "--data", data)
	var proof struct {
		State string
		Rows  int
	}
	output(t, &proof, "cmk", "prove", "--data", data)
	if proof.State != "Proven" || proof.Rows == 0 {
		t.Errorf("proof %+v, want all rows proven", proof)
	}
	var webhook struct{ EndpointURL string }
	output(t, &webhook, "cmk", "webhook", "--data", data)
	if !strings.Contains(webhook.EndpointURL, "/keyVaultEvents/") {
		t.Errorf("the webhook is %q", webhook.EndpointURL)
	}
	var impact []struct{ Effect string }
	output(t, &impact, "cmk", "impact", "--data", data, "--version", s.Properties.Key)
	if len(impact) != 1 {
		t.Errorf("impact %+v, want the one relay", impact)
	}
	if len(history) != 1 || !history[0].InForce || history[0].KeyID != s.Properties.Key {
		t.Errorf("history %+v, want the one wrap under %s", history, s.Properties.Key)
	}

	var stdout, stderr bytes.Buffer
	other := strings.Replace(s.Properties.Key, "/relay-key/", "/none/", 1)
	if code := run(t.Context(), []string{"cmk", "check", "--data", data, "--key-url", other}, &stdout, &stderr); code != 1 ||
		!strings.Contains(stdout.String(), "KeyNotFound") || !strings.Contains(stderr.String(), "failed checks: 1") {
		t.Errorf("check of a missing key: code %d, %s%s", code, &stdout, &stderr)
	}
	stdout.Reset()
	if code := run(t.Context(), []string{"cmk", "status", "--data", data}, &stdout, &stderr); code != 0 ||
		!slices.Contains(strings.Fields(stdout.String()), "Healthy") {
		t.Errorf("status as a table: code %d, %s", code, &stdout)
	}
	server.end(t)

	server = start(t, "serve", data, "relay at")
	awaitState(t, data, "Healthy")
	var log struct {
		Records []struct{ Reason, Outcome, RequestID string }
	}
	output(t, &log, "audit", "--data", data) // fails if it does not verify
	reasons := map[string]int{}
	for _, u := range log.Records {
		reasons[u.Reason]++
		if u.RequestID == "" {
			t.Errorf("record %+v has no request id of the vault", u)
		}
	}
	if reasons["create"] != 5 || reasons["check"] == 0 || reasons["start"] != 2 {
		t.Errorf("uses by reason: %v, want those of the creation, the checks and the start", reasons)
	}
	server.end(t)
}
