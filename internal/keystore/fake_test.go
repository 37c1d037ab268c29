package keystore_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys/fake"

	"github.com/tidelock/tidelock/internal/keystore"
)

// sdkVault is Azure's own fake of its key vault, behind a challenge as the real one has.
type sdkVault struct{ next *fake.ServerTransport }

func (v sdkVault) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Authorization") == "" {
		w := httptest.NewRecorder()
		w.Header().Set("WWW-Authenticate", strings.Replace(challenge, "vault.azure.net", "managedhsm.azure.net", 1))
		w.WriteHeader(http.StatusUnauthorized)
		return w.Result(), nil
	}
	return v.next.Do(r)
}

// Against the fake server that Azure's SDK comes with: what is sent and read is in the
// SDK's own words, and its errors become classes.
func TestAzuresOwnFake(t *testing.T) {
	u, err := keystore.ParseURL("https://contoso.managedhsm.azure.net/keys/kek", keystore.Hosts{AzureSuffixes: []string{"vault.azure.net", "managedhsm.azure.net"}})
	if err != nil {
		t.Fatal(err)
	}
	kid := to.Ptr(azkeys.ID(u.String() + "/" + version))
	material := bytes.Repeat([]byte{7}, 32)
	refuse := false
	mask := func(p azkeys.KeyOperationParameters) azkeys.KeyOperationResult {
		if *p.Algorithm != azkeys.EncryptionAlgorithmRSAOAEP256 {
			t.Errorf("algorithm %s", *p.Algorithm)
		}
		out := bytes.Clone(p.Value)
		for n := range out {
			out[n] ^= 0xff
		}
		return azkeys.KeyOperationResult{KID: kid, Result: out}
	}
	server := &fake.Server{
		GetKey: func(_ context.Context, name, v string, _ *azkeys.GetKeyOptions) (resp azfake.Responder[azkeys.GetKeyResponse], errResp azfake.ErrorResponder) {
			if refuse {
				errResp.SetResponseError(http.StatusForbidden, "Forbidden")
				return resp, errResp
			}
			if strings.Trim(name+v, "/") != "kek" { // the fake cuts paths without regard to slashes
				t.Errorf("asked for %q version %q", name, v)
			}
			resp.SetResponse(http.StatusOK, azkeys.GetKeyResponse{KeyBundle: azkeys.KeyBundle{
				Key: &azkeys.JSONWebKey{
					KID: kid, Kty: to.Ptr(azkeys.KeyTypeRSAHSM), N: append([]byte{0x80}, make([]byte, 383)...), E: []byte{1, 0, 1},
					KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationWrapKey), to.Ptr(azkeys.KeyOperationUnwrapKey)},
				},
				Attributes: &azkeys.KeyAttributes{Enabled: to.Ptr(true), Expires: to.Ptr(time.Unix(4000000000, 0)), RecoveryLevel: to.Ptr("Recoverable")},
			}}, nil)
			return resp, errResp
		},
		WrapKey: func(_ context.Context, _, _ string, p azkeys.KeyOperationParameters, _ *azkeys.WrapKeyOptions) (resp azfake.Responder[azkeys.WrapKeyResponse], errResp azfake.ErrorResponder) {
			resp.SetResponse(http.StatusOK, azkeys.WrapKeyResponse{KeyOperationResult: mask(p)}, nil)
			return resp, errResp
		},
		UnwrapKey: func(_ context.Context, name, v string, p azkeys.KeyOperationParameters, _ *azkeys.UnwrapKeyOptions) (resp azfake.Responder[azkeys.UnwrapKeyResponse], errResp azfake.ErrorResponder) {
			if !strings.Contains(name+"/"+v, "kek/"+version) {
				t.Errorf("unwrap with %q version %q", name, v)
			}
			resp.SetResponse(http.StatusOK, azkeys.UnwrapKeyResponse{KeyOperationResult: mask(p)}, nil)
			return resp, errResp
		},
	}
	c := keystore.New(keystore.Config{Credential: credential{}, Transport: sdkVault{fake.NewServerTransport(server)}})
	k, err := c.Describe(t.Context(), u)
	if err != nil || k.Type != "RSA-HSM" || k.Bits != 3072 || !k.Enabled || k.ID.Version() != version || k.RecoveryLevel != "Recoverable" || k.Expires.Unix() != 4000000000 {
		t.Fatalf("describe: %+v, %v", k, err)
	}
	w, err := c.Wrap(t.Context(), u, material)
	if err != nil || bytes.Equal(w.Value, material) {
		t.Fatalf("wrap: %+v, %v", w, err)
	}
	if got, _, err := c.Unwrap(t.Context(), w); err != nil || !bytes.Equal(got, material) {
		t.Fatalf("unwrap: %x, %v", got, err)
	}
	refuse = true
	_, err = c.Describe(t.Context(), u)
	var refused *keystore.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusForbidden || refused.Outage() {
		t.Errorf("a refusal: %v", err)
	}
}
