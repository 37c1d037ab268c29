package azurecloud

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Credential is that of an identity. For one that the configuration does not have, or
// whose credential cannot be made, it gives no tokens and says why.
func (c *Config) Credential(identity string) azcore.TokenCredential {
	i, ok := c.identities[strings.ToLower(identity)]
	if !ok {
		return noCredential{fmt.Errorf("%s has no credential for the identity %s", c.path, identity)}
	}
	made, err := i.credential(c.options())
	if err != nil {
		return noCredential{fmt.Errorf("the credential of %s: %w", identity, err)}
	}
	return made
}

// options: one try, for whoever asks for a token has a schedule of its own.
func (c *Config) options() azcore.ClientOptions {
	o := azcore.ClientOptions{
		Cloud: c.Cloud.config, Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true},
	}
	if c.transport != nil {
		o.Transport = c.transport
	}
	return o
}

func (i Identity) credential(o azcore.ClientOptions) (azcore.TokenCredential, error) {
	switch i.Type {
	case kindManaged:
		options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: o}
		switch {
		case i.ClientID != "":
			options.ID = azidentity.ClientID(i.ClientID)
		case i.ID != "":
			options.ID = azidentity.ResourceID(i.ID)
		}
		return azidentity.NewManagedIdentityCredential(options)
	case kindWorkload:
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: o, ClientID: i.ClientID, TenantID: i.TenantID, TokenFilePath: i.TokenFile,
		})
	case kindSecret:
		secret, err := os.ReadFile(i.SecretFile)
		if err != nil {
			return nil, err
		}
		return azidentity.NewClientSecretCredential(i.TenantID, i.ClientID, string(bytes.TrimSpace(secret)), &azidentity.ClientSecretCredentialOptions{ClientOptions: o})
	case kindCertificate:
		raw, err := os.ReadFile(i.CertificateFile)
		if err != nil {
			return nil, err
		}
		certs, key, err := azidentity.ParseCertificates(raw, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.CertificateFile, err)
		}
		return azidentity.NewClientCertificateCredential(i.TenantID, i.ClientID, certs, key, &azidentity.ClientCertificateCredentialOptions{ClientOptions: o})
	}
	return nil, fmt.Errorf("type %q is unknown", i.Type)
}

// noCredential is an identity that cannot have a token.
type noCredential struct{ why error }

func (n noCredential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, n.why
}

// Reach makes every request for tokens, and to the resource manager, go through t.
func (c *Config) Reach(t http.RoundTripper) { c.transport = &http.Client{Transport: t} }
