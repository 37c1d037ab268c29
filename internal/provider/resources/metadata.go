package resources

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"

	"github.com/tidelock/tidelock/internal/arm"
)

// Cloud is where a client finds this cloud's services.
type Cloud struct {
	Name          string // "Tidelock"
	ManagementURL string // of the resource manager, without slash at the end
	LoginURL      string // of the authority, without slash and directory at the end
	GraphURL      string // of the directory's own API, without slash at the end
	// ADFS makes older clients log in at LoginURL/adfs: they ask the public cloud about
	// any other login URL that is not its own.
	ADFS        bool
	VaultSuffix string // DNS suffix of vaults, with the port if there is one
	HSMSuffix   string // that of managed HSMs; empty: there are none
}

type authentication struct {
	Login     string   `json:"loginEndpoint"`
	Audiences []string `json:"audiences"`
	Tenant    string   `json:"tenant,omitempty"`
	Provider  string   `json:"identityProvider,omitempty"`
}

// endpoints2015 is the first shape: what az cloud register reads.
type endpoints2015 struct {
	Gallery        string         `json:"galleryEndpoint"`
	Graph          string         `json:"graphEndpoint"`
	Portal         string         `json:"portalEndpoint"`
	Authentication authentication `json:"authentication"`
}

// endpoints is a cloud in the newer shapes: a list of them since 2019-05-01, one
// since 2022-09-01.
type endpoints struct {
	Name            string            `json:"name"`
	Portal          string            `json:"portal"`
	Authentication  authentication    `json:"authentication"`
	ResourceManager string            `json:"resourceManager"`
	Graph           string            `json:"graph"`
	GraphAudience   string            `json:"graphAudience"`
	MicrosoftGraph  string            `json:"microsoftGraphResourceId"`
	Gallery         string            `json:"gallery"`
	Suffixes        map[string]string `json:"suffixes"`
}

var metadataVersion = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)

// MetadataHandler serves GET /metadata/endpoints, for which nobody needs a token.
func MetadataHandler(c Cloud) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.check(r); err != nil {
			arm.WriteError(w, err)
			return
		}
		raw, err := json.Marshal(c.metadata(r.URL.Query().Get("api-version")))
		if err != nil {
			arm.WriteError(w, &arm.Error{Status: 500, Code: "InternalServerError", Message: "An internal error occurred.", Cause: err})
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(raw) // a client that is gone is not an error of ours
	})
}

var metadataPath = regexp.MustCompile(`(?i)^/+metadata/+endpoints/*$`)

func (c Cloud) check(r *http.Request) *arm.Error {
	version := r.URL.Query().Get("api-version")
	switch {
	case !metadataPath.MatchString(r.URL.Path):
		return &arm.Error{Status: 404, Code: "NotFound", Message: "There is no such metadata; /metadata/endpoints is what is served."}
	case r.Method != http.MethodGet:
		return &arm.Error{Status: 405, Code: "MethodNotAllowed", Message: fmt.Sprintf("The requested resource does not support http method '%s'.", r.Method)}
	case version == "":
		return &arm.Error{Status: 400, Code: "MissingApiVersionParameter", Message: "The api-version query parameter (?api-version=) is required for all requests."}
	case !metadataVersion.MatchString(version):
		return &arm.Error{Status: 400, Code: "InvalidApiVersionParameter", Message: fmt.Sprintf("The api-version '%.40s' is invalid. The supported versions are '2022-09-01,2019-05-01,2015-01-01'.", version)}
	}
	return nil
}

// metadata is the cloud in the shape of an api-version. Clients of the newest one
// append a directory to the login endpoint, so /adfs is in the older two alone.
func (c Cloud) metadata(version string) any {
	login := c.LoginURL
	if c.ADFS {
		login += "/adfs"
	}
	audiences := []string{c.ManagementURL, c.ManagementURL + "/"}
	if version < "2018-01-01" {
		return endpoints2015{
			Gallery: c.ManagementURL + "/", Graph: c.GraphURL + "/", Portal: c.ManagementURL + "/",
			Authentication: authentication{Login: login, Audiences: audiences},
		}
	}
	e := endpoints{
		Name: c.Name, Portal: c.ManagementURL,
		Authentication:  authentication{Login: c.LoginURL, Audiences: audiences, Tenant: "common", Provider: "AAD"},
		ResourceManager: c.ManagementURL + "/",
		Graph:           c.GraphURL + "/", GraphAudience: c.GraphURL + "/", MicrosoftGraph: c.GraphURL + "/",
		Gallery:  c.ManagementURL + "/",
		Suffixes: map[string]string{"keyVaultDns": c.VaultSuffix},
	}
	if c.HSMSuffix != "" {
		e.Suffixes["mhsmDns"] = c.HSMSuffix
	}
	if version < "2022-09-01" {
		e.Authentication.Login = login
		return []endpoints{e}
	}
	return e
}
