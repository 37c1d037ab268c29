package blobs_test

import (
	"encoding/json"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/tidelock/tidelock/internal/store/blobs"
	"github.com/tidelock/tidelock/internal/store/blobs/blobstest"
)

func open(t *testing.T, o blobs.Options) blobs.Store {
	t.Helper()
	st, err := blobs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func write(t *testing.T, content any) string {
	t.Helper()
	raw, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	st := open(t, blobs.Options{Place: "dir:" + dir})
	// What a crash or somebody else left is none of ours.
	if err := os.MkdirAll(filepath.Join(dir, "00"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"00/.new-1", "00/note", "readme", "00/" + strings.Repeat("1", 32)} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blobstest.TestStore(t, st)
}

// TestS3 runs against an S3 server written for tests, in this process. It speaks the
// protocol as MinIO's client does; a real service was not at hand.
func TestS3(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("sealed"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	defer server.Close()
	blobstest.TestStore(t, open(t, blobs.Options{
		Place:           "s3:" + server.URL + "/sealed?region=us-east-1",
		CredentialsFile: write(t, map[string]string{"accessKeyId": "id", "secretAccessKey": "secret"}),
	}))
	_, err := blobs.Open(t.Context(), blobs.Options{
		Place:           "s3:" + server.URL + "/absent?region=us-east-1",
		CredentialsFile: write(t, map[string]string{"accessKeyId": "id", "secretAccessKey": "secret"}),
	})
	if err == nil || !strings.Contains(err.Error(), "bucket") {
		t.Errorf("a bucket that is not there: got %v", err)
	}
}

// azuriteVariable is the program azurite-blob.
const azuriteVariable = "TIDELOCK_AZURITE"

// The account that Azurite has unless told otherwise; its key is published.
const (
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// azurite starts one and returns the URL of its account.
func azurite(t *testing.T) string {
	t.Helper()
	program := os.Getenv(azuriteVariable)
	if program == "" {
		t.Skip("needs Azurite: run 'make blobs'")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command(program, "--blobHost", "127.0.0.1", "--blobPort", strconv.Itoa(address.Port),
		"--location", dir, "--skipApiVersionCheck", "--disableTelemetry", "--silent")
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended by itself
		_ = c.Wait()
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address.String()); err == nil {
			conn.Close()
			return "http://" + address.String() + "/" + azuriteAccount
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("Azurite does not answer: %s", said)
		}
	}
}

func TestAzure(t *testing.T) {
	place := azurite(t) + "/sealed"
	key, err := container.NewSharedKeyCredential(azuriteAccount, azuriteKey)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := container.NewClientWithSharedKeyCredential(place, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := blobs.Options{
		Place:           "azure:" + place,
		CredentialsFile: write(t, map[string]string{"accountName": azuriteAccount, "accountKey": azuriteKey}),
	}
	if _, err := blobs.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "ContainerNotFound") {
		t.Errorf("a container that is not there: got %v", err)
	}
	if _, err := admin.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	blobstest.TestStore(t, open(t, o))
}

func TestPlacesThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(`{"accountKey": "hidden", "other": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, place, credentials, want string }{
		{"Unknown", "gs://bucket", "", "is not azure:https://"},
		{"Empty", "", "", "is not azure:https://"},
		{"PlainHTTP", "azure:http://contoso.blob.core.windows.net/c", "", "without TLS"},
		{"PlainHTTPS3", "s3:http://s3.contoso.com/bucket", "", "without TLS"},
		{"NoContainer", "azure:https://contoso.blob.core.windows.net/", "", "want https://host/name"},
		{"Password", "s3:https://id:hidden@s3.contoso.com/bucket", "", "without credentials"},
		{"Signature", "azure:https://contoso.blob.core.windows.net/c?sig=hidden", "", "give credentials in a file"},
		{"FolderInBucket", "s3:https://s3.contoso.com/bucket/folder", "", "want https://host/bucket"},
		{"Relative", "dir:blobs", "", "not an absolute path"},
		{"Absent", "dir:" + filepath.Join(dir, "absent"), "", "no such file"},
		{"File", "dir:" + file, "", "not a directory"},
		{"UnknownCredential", "azure:https://contoso.blob.core.windows.net/c", file, "not the JSON object"},
		{"HalfACredential", "s3:https://s3.contoso.com/b", write(t, map[string]string{"accessKeyId": "x"}), "secretAccessKey"},
		{"OtherCredential", "azure:https://contoso.blob.core.windows.net/c", write(t, map[string]string{"accessKeyId": "x", "secretAccessKey": "hidden"}), "accountName"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := blobs.Open(t.Context(), blobs.Options{Place: c.place, CredentialsFile: c.credentials})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("got %v, want %q and no secret", err, c.want)
			}
		})
	}
}
