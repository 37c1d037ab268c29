package entra

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

// DirectoryID is a directory's GUID ("tenant" in Azure's words), in lower case.
type DirectoryID string

// Audiences of the services here, without trailing slash; both forms are accepted.
const (
	AudienceManagement = "https://management.azure.com" // also management.core.windows.net, and our own URL
	AudienceVault      = "https://vault.azure.net"
	AudienceHSM        = "https://managedhsm.azure.net"
	AudienceGraph      = "https://graph.microsoft.com" // also GraphPath below our own URL
)

// GraphPath is where the directory's own API is, below the management URL; clients of
// the public cloud's names find it at the root of graph.microsoft.com.
const GraphPath = "/graph"

// Config of a Service.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey // seals the rows
	// Login is the authority's URL, such as https://127.0.0.1:8443: part of the
	// discovery document, its issuer and its challenges.
	Login string
	// Audiences are accepted as the management audience besides the public ones.
	Audiences []string
	// VaultSuffix is the DNS suffix of vaults here, with the port if there is one:
	// "https://"+VaultSuffix is a vault audience too.
	VaultSuffix string
	HSMSuffix   string // the same of managed HSMs
	// Issuers is the client that asks other OpenID providers, as NewIssuerClient
	// returns it; nil: one that reaches public addresses only.
	Issuers *http.Client
	// GenerateRSA makes the keys that tokens are signed with; nil: crypto/rsa. Tests share
	// theirs.
	GenerateRSA func(bits int) (*rsa.PrivateKey, error)
	Log         *slog.Logger
}

// Service is the directory service. It is safe for concurrent use. It keeps no
// state but keys, its own and those of other issuers: a row changed by another node
// counts at once.
type Service struct {
	login   string
	log     *slog.Logger
	store   store.Store
	keys    *signingKeys
	issuers *issuers

	management audiences
	vault      audiences
	hsm        audiences
	graph      audiences

	directories row.Table[directoryRow]
	principals  row.Table[principalRow]
	clients     row.Table[reference]
	identities  row.Table[reference]
	externals   row.Table[reference]

	trusted map[string]*TrustedIssuer // by issuer

	assignments     row.Table[Assignment] // a partition for each principal
	assignmentNames row.Table[Assignment] // the same, by name
}

// Open loads the signing key, or makes it when there is none.
func Open(ctx context.Context, c Config) (*Service, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Issuers == nil {
		var err error
		if c.Issuers, err = NewIssuerClient(IssuerNetwork{}); err != nil {
			return nil, err
		}
	}
	s := &Service{
		issuers: &issuers{client: c.Issuers, known: map[string]*issuer{}},
		login:   strings.TrimSuffix(c.Login, "/"),
		log:     c.Log,
		store:   c.Store,
		management: newAudiences(append([]string{
			AudienceManagement, "https://management.core.windows.net", c.Login,
		}, c.Audiences...)...),
		vault:       newAudiences(AudienceVault, "https://"+c.VaultSuffix),
		hsm:         newAudiences(AudienceHSM, "https://"+c.HSMSuffix),
		graph:       newAudiences(AudienceGraph, strings.TrimSuffix(c.Login, "/")+GraphPath),
		directories: row.NewTable[directoryRow](c.Store, c.Service, "entra-directories"),
		principals:  row.NewTable[principalRow](c.Store, c.Service, "entra-principals"),
		clients:     row.NewTable[reference](c.Store, c.Service, "entra-clients"),
		identities:  row.NewTable[reference](c.Store, c.Service, "entra-identities"),
		assignments: row.NewTable[Assignment](c.Store, c.Service, "entra-role-assignments"),

		externals:       row.NewTable[reference](c.Store, c.Service, "entra-externals"),
		assignmentNames: row.NewTable[Assignment](c.Store, c.Service, "entra-role-assignment-names"),
	}
	keys, err := openSigningKeys(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open the directory service: %w", err)
	}
	s.keys = keys
	return s, nil
}

// audiences are the names of one service, as clients may ask for it.
type audiences map[string]bool

func newAudiences(urls ...string) audiences {
	a := audiences{}
	for _, u := range urls {
		if u != "" && u != "https://" {
			a[canonicalAudience(u)] = true
		}
	}
	return a
}

func (a audiences) has(url string) bool { return a[canonicalAudience(url)] }

// canonicalAudience drops one trailing slash: clients ask for both forms.
func canonicalAudience(url string) string {
	return strings.ToLower(strings.TrimSuffix(url, "/"))
}

func notFound(err error) bool { return errors.Is(err, store.ErrNotFound) }
