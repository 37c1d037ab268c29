package keystore

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Hosts says which key stores may be spoken to.
type Hosts struct {
	// Suffixes are DNS suffixes of vaults that are registered here, such as
	// "vault.tidelock.localhost"; a host is one label in front of one of them, on any port.
	Suffixes []string
	// AzureSuffixes are those of Azure's own key stores, such as "vault.azure.net", which are
	// on port 443 and no other.
	AzureSuffixes []string
}

// URL is a key identifier: https://{vault}.{suffix}[:port]/keys/{name}[/{version}].
// It can only be made by ParseURL. The zero URL names nothing.
type URL struct{ host, vault, name, version string }

// URLError says what is wrong with a key URL, and where.
type URLError struct {
	Code    string // KeyUrlMalformed or KeyStoreNotSupported
	Message string // for people; says what to do
}

func (e *URLError) Error() string { return e.Message }

// The codes of a URLError.
const (
	codeMalformed    = "KeyUrlMalformed"
	codeNotSupported = "KeyStoreNotSupported"
)

const (
	scheme      = "https://"
	shape       = "https://{vault}.{suffix}/keys/{name} or https://{vault}.{suffix}/keys/{name}/{version}"
	maxURLBytes = 512 // the longest legal URL is well below: 8+24+63+6+6+127+33
)

// Names as Key Vault has them ("Azure naming rules and restrictions", Microsoft.KeyVault).
var (
	vaultName   = regexp.MustCompile(`^[a-z][a-z0-9-]{1,22}[a-z0-9]$`)
	keyName     = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	keyVersion  = regexp.MustCompile(`^[0-9a-f]{32}$`)
	portPattern = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
)

func malformed(format string, args ...any) *URLError {
	return &URLError{Code: codeMalformed, Message: fmt.Sprintf(format, args...)}
}

// ParseURL takes a key identifier and nothing else: no other scheme, no user
// info, no query, no blank, no slash at the end. Nothing is trimmed or repaired, but
// the host is lower-cased and port 443 is left out. The error is a *URLError.
//
// The parser is our own and knows no escapes: what net/url would read differently
// from the code that sends the token cannot be written down here at all.
func ParseURL(s string, hosts Hosts) (URL, error) {
	if len(s) > maxURLBytes {
		return URL{}, malformed("The key URL is %d bytes long; at most %d are allowed. It has the form %s.", len(s), maxURLBytes, shape)
	}
	if err := checkCharacters(s); err != nil {
		return URL{}, err
	}
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return URL{}, malformed("The key URL %q does not begin with %s. It has the form %s.", s, scheme, shape)
	}
	authority, path, _ := strings.Cut(s[len(scheme):], "/")
	u, err := parseAuthority(authority, hosts)
	if err != nil {
		return URL{}, err
	}
	return u, u.parsePath(path)
}

// checkCharacters admits letters, digits and "-./:" only, and names the first
// character that is none of them: often a blank or a quote that came along when the
// URL was pasted from a document.
func checkCharacters(s string) *URLError {
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune("-./:", c):
			continue
		}
		what := fmt.Sprintf("the character %q (%U)", c, c)
		switch {
		case c == utf8.RuneError:
			what = "a byte that is not UTF-8, or U+FFFD,"
		case c == ' ' || c == '\u00a0' || c == '\t':
			what = fmt.Sprintf("a blank (%U)", c)
		case c == '?':
			what = "a query ('?')"
		case c == '#':
			what = "a fragment ('#')"
		case c == '@':
			what = "user information ('@')"
		}
		return malformed("The key URL %q has %s at position %d, which does not belong there. It has the form %s.", s, what, i+1, shape)
	}
	return nil
}

func parseAuthority(authority string, hosts Hosts) (URL, error) {
	host, port, hasPort := strings.Cut(authority, ":")
	if hasPort {
		n, err := strconv.Atoi(port)
		if err != nil || !portPattern.MatchString(port) || n > 65535 {
			return URL{}, malformed("The key URL's port %q is not a number from 1 to 65535.", port)
		}
	}
	host = strings.ToLower(host)
	vault, suffix, _ := strings.Cut(host, ".")
	if hasPort && port != "443" && admits(hosts.AzureSuffixes, suffix) {
		return URL{}, malformed("The key URL has the port %s; the key stores of %s are on port 443: leave the port out.", port, suffix)
	}
	if !hosts.admit(suffix) {
		return URL{}, &URLError{Code: codeNotSupported, Message: fmt.Sprintf(
			"The host %q is no key vault or managed HSM known here. The key must live in one of: %s.", host, hosts)}
	}
	if !vaultName.MatchString(vault) || strings.Contains(vault, "--") {
		return URL{}, malformed("%q is not a vault's name: it has 3 to 24 letters, digits and single hyphens, "+
			"begins with a letter and does not end with a hyphen.", vault)
	}
	if hasPort && port != "443" {
		host += ":" + port
	}
	return URL{host: host, vault: vault}, nil
}

func (h Hosts) admit(suffix string) bool {
	return admits(h.Suffixes, suffix) || admits(h.AzureSuffixes, suffix)
}

// InAzure says whether the key store is one of Azure's own, and none of this server.
func (h Hosts) InAzure(u URL) bool {
	_, suffix, _ := strings.Cut(u.host, ".")
	return admits(h.AzureSuffixes, suffix)
}

func admits(suffixes []string, suffix string) bool {
	for _, s := range suffixes {
		if suffix != "" && strings.EqualFold(suffix, s) {
			return true
		}
	}
	return false
}

// String lists the hosts as a person would write them.
func (h Hosts) String() string {
	all := slices.Concat(h.Suffixes, h.AzureSuffixes)
	if len(all) == 0 {
		return "(none)"
	}
	return "*." + strings.Join(all, ", *.")
}

// parsePath fills in name and version, or empties u.
func (u *URL) parsePath(path string) (err error) {
	defer func() {
		if err != nil {
			*u = URL{}
		}
	}()
	parts := strings.Split(path, "/")
	if parts[0] != "keys" {
		if parts[0] == "secrets" || parts[0] == "certificates" {
			return malformed("The key URL names one of the vault's %s, not a key. Its path must begin with /keys/.", parts[0])
		}
		return malformed("The key URL's path /%s does not begin with /keys/. It has the form %s.", path, shape)
	}
	if len(parts) > 2 && parts[len(parts)-1] == "" {
		return malformed("The key URL ends with a slash, which does not belong there. It has the form %s.", shape)
	}
	if len(parts) < 2 || len(parts) > 3 {
		return malformed("The key URL's path /%s is not /keys/{name} or /keys/{name}/{version}.", path)
	}
	if !keyName.MatchString(parts[1]) {
		return malformed("%q is not a key's name: it has 1 to 127 letters, digits and hyphens.", parts[1])
	}
	if len(parts) == 3 {
		if !keyVersion.MatchString(parts[2]) {
			return malformed("%q is not a key's version: it has 32 hexadecimal digits in lower case. "+
				"To follow the newest version, leave it out.", parts[2])
		}
		u.version = parts[2]
	}
	u.name = parts[1]
	return nil
}

// String returns the URL in its canonical form; empty for the zero URL.
func (u URL) String() string {
	if u.IsZero() {
		return ""
	}
	s := scheme + u.host + "/keys/" + u.name
	if u.version != "" {
		s += "/" + u.version
	}
	return s
}

// IsZero says whether u names nothing.
func (u URL) IsZero() bool { return u == URL{} }

// Host is the vault's host, in lower case, with the port if one was given.
func (u URL) Host() string { return u.host }

// Vault is the vault's name: the first label of the host.
func (u URL) Vault() string { return u.vault }

// ManagedHSM says whether the key is in a managed HSM, whose suffixes all begin so.
func (u URL) ManagedHSM() bool { return strings.HasPrefix(u.host, u.vault+".managedhsm.") }

// Name is the key's name.
func (u URL) Name() string { return u.name }

// Version is the key's version; empty if the URL has none.
func (u URL) Version() string { return u.version }

// WithVersion returns the identifier of one version of the same key; with "", that
// of its newest.
func (u URL) WithVersion(v string) URL {
	u.version = v
	return u
}
