package fluidrelay_test

import (
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

func TestRotateDocumentKeys(t *testing.T) {
	f := providertest.New(t, &containers{})
	f.Want(200, f.Do("PUT", serverPath("s1"), `{"location":"westus2"}`))
	for path, want := range map[string]string{"rotateDocumentKeys": `"rotated":0`, "fluidRelayContainers/doc-A/rotateKey": `"rotated":1`} {
		got := f.Do("POST", previewPath("s1", path), "")
		if f.Want(200, got); !strings.Contains(string(got.Body), want) {
			t.Errorf("%s: %s, want %s", path, got.Body, want)
		}
	}
	f.Refused(409, "KeyUnusable", f.Do("POST", previewPath("s1", "fluidRelayContainers/doc-B/rotateKey"), ""))
	f.Refused(404, "ContainerNotFound", f.Do("POST", previewPath("s1", "fluidRelayContainers/doc-C/rotateKey"), ""))
}
