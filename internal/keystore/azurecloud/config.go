package azurecloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// Config says which credential stands for which identity.
type Config struct {
	Cloud      Cloud
	identities map[string]Identity // by lower-case resource id
	management *Identity           // asks the resource manager; nil: it is not asked
	also       []string            // subscriptions in which key stores are looked for, besides the identities' own
	path       string              // of the file, for messages
	transport  *http.Client        // nil: the SDK's own, which goes by the proxies of the environment
}

// The kinds of credentials.
const (
	kindManaged     = "managedIdentity"   // of the machine, App Service or Arc that this runs on
	kindWorkload    = "workloadIdentity"  // a federated token in a file, as Kubernetes gives it
	kindSecret      = "clientSecret"      // of an application
	kindCertificate = "clientCertificate" // of an application
)

// Identity is one credential of the configuration file.
type Identity struct {
	ID   string `json:"id"` // resource id of the user-assigned identity it stands for
	Type string `json:"type"`
	// Tenant and client are needed for all types but managedIdentity, which goes by the
	// resource id.
	TenantID string `json:"tenantId"`
	ClientID string `json:"clientId"`
	// One file, as the type wants it; paths are relative to the configuration's.
	TokenFile       string `json:"tokenFile"`
	SecretFile      string `json:"secretFile"`
	CertificateFile string `json:"certificateFile"`
}

type fileConfig struct {
	Cloud         string     `json:"cloud"`
	Identities    []Identity `json:"identities"`
	Management    *Identity  `json:"management"`
	Subscriptions []string   `json:"subscriptions"`
}

const maxFileBytes = 1 << 20

// Load reads a configuration file. Unknown members, credentials without what they need
// and files that are not there are errors.
func Load(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key store configuration: %w", err)
	}
	c, err := parse(raw, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("key store configuration %s: %w", path, err)
	}
	c.path = path
	return c, nil
}

func parse(raw []byte, dir string) (*Config, error) {
	if len(raw) > maxFileBytes {
		return nil, fmt.Errorf("it is longer than %d bytes", maxFileBytes)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var f fileConfig
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	if f.Cloud == "" {
		f.Cloud = clouds[0].Name
	}
	cloud, err := findCloud(f.Cloud)
	if err != nil {
		return nil, err
	}
	c := &Config{Cloud: cloud, identities: map[string]Identity{}, also: f.Subscriptions}
	if len(f.Identities) == 0 {
		return nil, errors.New("identities is empty: no key store could be asked")
	}
	for n, i := range f.Identities {
		where := fmt.Sprintf("identities[%d]", n)
		if strings.Count(i.ID, "/") != 8 || !strings.Contains(strings.ToLower(i.ID), "/providers/microsoft.managedidentity/userassignedidentities/") {
			return nil, fmt.Errorf("%s: id %q is not the resource id of a user-assigned identity", where, i.ID)
		}
		if i, err = i.check(dir); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if _, twice := c.identities[strings.ToLower(i.ID)]; twice {
			return nil, fmt.Errorf("%s: id %q is there twice", where, i.ID)
		}
		c.identities[strings.ToLower(i.ID)] = i
	}
	if f.Management != nil {
		m, err := f.Management.check(dir)
		if err != nil {
			return nil, fmt.Errorf("management: %w", err)
		}
		c.management = &m
	}
	return c, nil
}

// check refuses an identity that lacks what its type needs, or has what it cannot use,
// and makes its file's path absolute.
func (i Identity) check(dir string) (Identity, error) {
	files := map[string]*string{"tokenFile": &i.TokenFile, "secretFile": &i.SecretFile, "certificateFile": &i.CertificateFile}
	needs, known := map[string]string{kindManaged: "", kindWorkload: "tokenFile", kindSecret: "secretFile", kindCertificate: "certificateFile"}[i.Type]
	if !known {
		return i, fmt.Errorf("type %q is none of %s, %s, %s, %s", i.Type, kindManaged, kindWorkload, kindSecret, kindCertificate)
	}
	for name, path := range files {
		switch {
		case name != needs && *path != "":
			return i, fmt.Errorf("%s does not belong to type %s", name, i.Type)
		case name == needs && *path == "":
			return i, fmt.Errorf("%s is missing: type %s needs it", name, i.Type)
		case name == needs:
			if !filepath.IsAbs(*path) {
				*path = filepath.Join(dir, *path)
			}
			if _, err := os.Stat(*path); err != nil {
				return i, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if i.Type != kindManaged && (i.TenantID == "" || i.ClientID == "") {
		return i, fmt.Errorf("type %s needs tenantId and clientId", i.Type)
	}
	return i, nil
}

// Has says whether there is a credential for the identity.
func (c *Config) Has(identity string) bool {
	_, ok := c.identities[strings.ToLower(identity)]
	return ok
}
