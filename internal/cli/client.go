package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// Client speaks to one server's management plane and vaults.
type Client struct {
	profile    Profile
	http       *http.Client
	credential azcore.TokenCredential
	network    *network
}

// network remembers the last failure to reach the server: the identity library
// reports it as text only.
type network struct {
	http.RoundTripper
	failed atomic.Pointer[net.OpError]
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := n.RoundTripper.RoundTrip(r)
	var op *net.OpError
	if errors.As(err, &op) {
		n.failed.Store(op)
	}
	return resp, err
}

// NewClient returns a client for the server of p.
func NewClient(p Profile) (*Client, error) {
	pem, err := os.ReadFile(p.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", p.CAFile)
	}
	u, err := url.Parse(p.ManagementURL)
	if err != nil {
		return nil, fmt.Errorf("management URL: %w", err)
	}
	reach := &network{RoundTripper: transport(roots, u.Host, p.Domain)}
	c := &Client{profile: p, network: reach, http: &http.Client{Transport: reach, Timeout: 2 * time.Minute}}
	c.credential, err = azidentity.NewClientSecretCredential(p.DirectoryID, p.ClientID, p.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{
			ClientOptions: azcore.ClientOptions{
				Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: p.ManagementURL},
				Transport: c.http,
				Retry:     policy.RetryOptions{MaxRetries: -1},
			},
			DisableInstanceDiscovery: true,
		})
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	return c, nil
}

// transport leads every name below domain to the server's address: such names
// need not resolve.
func transport(roots *x509.CertPool, address, domain string) *http.Transport {
	var d net.Dialer
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, _, err := net.SplitHostPort(addr); err == nil && strings.HasSuffix(host, "."+domain) {
				addr = address
			}
			return d.DialContext(ctx, network, addr)
		},
	}
}

// Keys returns the real Key Vault client for a vault of this server.
func (c *Client) Keys(vault string) (*azkeys.Client, error) {
	return c.keysAt(vault + "." + c.profile.VaultSuffix)
}

// HSMKeys is Keys for a managed HSM.
func (c *Client) HSMKeys(hsm string) (*azkeys.Client, error) {
	return c.keysAt(hsm + "." + c.profile.HSMSuffix)
}

func (c *Client) keysAt(host string) (*azkeys.Client, error) {
	return azkeys.NewClient("https://"+host, c.credential, &azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: c.http, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
}

// APIError is a refusal of the management plane.
type APIError struct {
	Status  int        `json:"-"`
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Target  string     `json:"target"`
	Details []APIError `json:"details"`
}

func (e *APIError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Code, e.Message)
	for _, d := range e.Details {
		fmt.Fprintf(&b, "\n  %s: %s", d.Code, d.Message)
	}
	return b.String()
}

// Do makes one management request and decodes the answer into out, unless that is
// nil. A refusal is an *APIError.
func (c *Client) Do(ctx context.Context, method, path, apiVersion string, in, out any) error {
	return c.send(ctx, method, c.profile.ManagementURL+path+"?api-version="+apiVersion, in, out)
}

// send is Do for a whole URL, which must be one of the management plane: it is sent
// a token.
func (c *Client) send(ctx context.Context, method, target string, in, out any) error {
	return c.sendTo(ctx, "https://management.azure.com", method, target, in, out)
}

// graph is Do for the directory's own API.
func (c *Client) graph(ctx context.Context, method, path string, in, out any) error {
	return c.sendTo(ctx, "https://graph.microsoft.com", method, c.profile.ManagementURL+"/graph"+path, in, out)
}

func (c *Client) sendTo(ctx context.Context, audience, method, target string, in, out any) error {
	token, err := c.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
	if err != nil {
		return c.explain(err)
	}
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token.Token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, target, err)
	}
	if resp.StatusCode >= 300 {
		return apiError(resp.StatusCode, raw)
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what was expected: %w", method, target, err)
	}
	return nil
}

func apiError(status int, raw []byte) error {
	var envelope struct {
		Error APIError `json:"error"`
	}
	if err := json.Unmarshal(raw, &envelope); err != nil || envelope.Error.Code == "" {
		return &APIError{Status: status, Code: http.StatusText(status), Message: "the server gave no reason"}
	}
	envelope.Error.Status = status
	return &envelope.Error
}

// explain says that the server could not be reached, if that is why err came.
func (c *Client) explain(err error) error {
	if op := c.network.failed.Load(); op != nil {
		return Hint(fmt.Errorf("reach the server at %s: %w", c.profile.ManagementURL, op), "is it running? Start it with 'tidelock serve'")
	}
	return err
}
