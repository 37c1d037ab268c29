package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Applications and directories, as an operator manages them.
func TestApplicationsAndDirectories(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	server := start(t, "quickstart", data, "is serving")
	defer server.end(t)
	type shown struct {
		AppID        string                     `json:"appId"`
		Secrets      []struct{ KeyID string }   `json:"passwordCredentials"`
		Certificates []struct{ KeyID string }   `json:"keyCredentials"`
		Trusts       []struct{ Subject string } `json:"federatedIdentityCredentials"`
	}
	do := func(args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(args, "--data", data), &stdout, &stderr); code != 0 {
			t.Fatalf("tidelock %s: exit code %d: %s", strings.Join(args, " "), code, &stderr)
		}
		return stdout.String()
	}
	var made, now shown
	output(t, &made, "app", "create", "--name", "worker", "--data", data)
	var secret struct{ KeyID, SecretText, AppID string }
	output(t, &secret, "app", "secret", "add", "--app", "worker", "--data", data)
	if made.AppID == "" || secret.AppID != made.AppID || len(secret.SecretText) != 43 {
		t.Errorf("made %+v, with a secret of %d characters", made, len(secret.SecretText))
	}
	file := filepath.Join(t.TempDir(), "worker.pem")
	if err := writeRSACertificate(file); err != nil {
		t.Fatal(err)
	}
	do("app", "certificate", "add", "--app", made.AppID, "--file", file)
	do("app", "trust", "add", "--app", "worker", "--name", "cluster", "--issuer", "https://oidc.example.test", "--subject", "system:serviceaccount:a:b")
	output(t, &now, "app", "show", "--app", "worker", "--data", data)
	if len(now.Secrets) != 1 || len(now.Certificates) != 1 || len(now.Trusts) != 1 || now.Trusts[0].Subject != "system:serviceaccount:a:b" {
		t.Fatalf("shown: %+v", now)
	}
	do("app", "secret", "remove", "--app", "worker", "--id", now.Secrets[0].KeyID)
	do("app", "certificate", "remove", "--app", "worker", "--id", now.Certificates[0].KeyID)
	do("app", "trust", "remove", "--app", "worker", "--name", "cluster")
	if got := do("app", "show", "--app", "worker"); strings.Contains(got, "SECRET") || strings.Contains(got, "CERTIFICATE") || strings.Contains(got, "TRUST") {
		t.Errorf("after all was removed: %s", got)
	}
	do("app", "delete", "--app", "worker")
	if got := do("app", "list"); strings.Contains(got, "worker") || !strings.Contains(got, "administrator") {
		t.Errorf("the applications: %s", got)
	}
	for _, want := range []string{"DIRECTORY", "SUBSCRIPTION", "CLIENT ID", "SECRET"} {
		if got := do("directory", "create", "--name", "second-"+want[:3]); !strings.Contains(got, want) {
			t.Errorf("directory create shows no %s: %s", want, got)
		}
	}
	do("directory", "rotate-key")
	if got := do("directory", "list"); strings.Count(got, "second-") != 4 {
		t.Errorf("the directories: %s", got)
	}
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"app", "show", "--app", "worker", "--data", data}, io.Discard, &stderr); code != 1 || !strings.Contains(stderr.String(), "hint: 'tidelock app list'") {
		t.Errorf("an unknown application: %d %s", code, &stderr)
	}
}

func writeRSACertificate(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	return os.WriteFile(path, both, 0o600)
}
