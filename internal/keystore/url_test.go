package keystore

import (
	"errors"
	"strings"
	"testing"
)

var registered = Hosts{Suffixes: []string{"vault.tidelock.localhost", "vault.azure.net"}}

const someVersion = "0123456789abcdef0123456789abcdef"

func TestParseURLAdmits(t *testing.T) {
	for in, want := range map[string]URL{
		"https://contoso.vault.azure.net/keys/kek":                             {"contoso.vault.azure.net", "contoso", "kek", ""},
		"https://contoso.vault.azure.net/keys/kek/" + someVersion:              {"contoso.vault.azure.net", "contoso", "kek", someVersion},
		"https://contoso.vault.azure.net:443/keys/kek":                         {"contoso.vault.azure.net", "contoso", "kek", ""},
		"https://Contoso.Vault.Azure.NET/keys/My-Kek-1":                        {"contoso.vault.azure.net", "contoso", "My-Kek-1", ""},
		"https://c-1.vault.tidelock.localhost:8443/keys/create/" + someVersion: {"c-1.vault.tidelock.localhost:8443", "c-1", "create", someVersion},
	} {
		got, err := ParseURL(in, registered)
		if err != nil || got != want {
			t.Errorf("%s = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, code, says string }{
		{"Empty", "", codeMalformed, "does not begin with https://"},
		{"PlainHTTP", "http://contoso.vault.azure.net/keys/kek", codeMalformed, "does not begin with https://"},
		{"NoScheme", "contoso.vault.azure.net/keys/kek", codeMalformed, "does not begin with https://"},
		{"Blank", "https:// contoso.vault.azure.net/keys/kek", codeMalformed, "a blank (U+0020) at position 9"},
		{"BlankAtTheEnd", "https://contoso.vault.azure.net/keys/kek ", codeMalformed, "a blank (U+0020) at position 41"},
		{"HardBlank", "https://contoso.vault.azure.net/keys/\u00a0kek", codeMalformed, "a blank (U+00A0)"},
		{"TypographicQuote", "\u201chttps://contoso.vault.azure.net/keys/kek", codeMalformed, "U+201C"},
		{"EnDash", "https://contoso\u2013x.vault.azure.net/keys/kek", codeMalformed, "U+2013"},
		{"HomographHost", "https://c\u043entoso.vault.azure.net/keys/kek", codeMalformed, "U+043E"},
		{"NotUTF8", "https://contoso.vault.azure.net/keys/k\xff", codeMalformed, "not UTF-8"},
		{"NewLine", "https://contoso.vault.azure.net/keys/kek\r\nHost: x", codeMalformed, "U+000D"},
		{"UserInfo", "https://contoso.vault.azure.net@evil.test/keys/kek", codeMalformed, "user information"},
		{"Query", "https://contoso.vault.azure.net/keys/kek?a=b", codeMalformed, "a query"},
		{"Fragment", "https://contoso.vault.azure.net/keys/kek#x", codeMalformed, "a fragment"},
		{"Escape", "https://contoso.vault.azure.net/keys/k%65k", codeMalformed, "'%'"},
		{"Backslash", `https://evil.test\.vault.azure.net/keys/kek`, codeMalformed, `'\\'`},
		{"Underscore", "https://test_key_vault.vault.azure.net/keys/kek", codeMalformed, "'_'"},
		{"OtherHost", "https://contoso.vault.evil.test/keys/kek", codeNotSupported, "*.vault.azure.net"},
		{"SuffixInside", "https://contoso.vault.azure.net.evil.test/keys/kek", codeNotSupported, "no key vault"},
		{"SuffixGluedOn", "https://contosovault.azure.net/keys/kek", codeNotSupported, "no key vault"},
		{"TwoLabels", "https://a.contoso.vault.azure.net/keys/kek", codeNotSupported, "no key vault"},
		{"SuffixAlone", "https://vault.azure.net/keys/kek", codeNotSupported, "no key vault"},
		{"TrailingDot", "https://contoso.vault.azure.net./keys/kek", codeNotSupported, "no key vault"},
		{"Loopback", "https://127.0.0.1/keys/kek", codeNotSupported, "no key vault"},
		{"Address6", "https://[::1]/keys/kek", codeMalformed, "'['"},
		{"NoHost", "https:///keys/kek", codeNotSupported, "no key vault"},
		{"ShortVault", "https://ab.vault.azure.net/keys/kek", codeMalformed, "not a vault's name"},
		{"DigitFirst", "https://1contoso.vault.azure.net/keys/kek", codeMalformed, "not a vault's name"},
		{"TwoHyphens", "https://con--toso.vault.azure.net/keys/kek", codeMalformed, "not a vault's name"},
		{"EmptyVault", "https://.vault.azure.net/keys/kek", codeMalformed, "not a vault's name"},
		{"EmptyPort", "https://contoso.vault.azure.net:/keys/kek", codeMalformed, "port"},
		{"PortZero", "https://contoso.vault.azure.net:0/keys/kek", codeMalformed, "port"},
		{"PortTooLarge", "https://contoso.vault.azure.net:65536/keys/kek", codeMalformed, "port"},
		{"PortWithZero", "https://contoso.vault.azure.net:0443/keys/kek", codeMalformed, "port"},
		{"TwoPorts", "https://contoso.vault.azure.net:1:2/keys/kek", codeMalformed, "port"},
		{"NoPath", "https://contoso.vault.azure.net", codeMalformed, "/keys/"},
		{"NoName", "https://contoso.vault.azure.net/keys", codeMalformed, "/keys/{name}"},
		{"EmptyName", "https://contoso.vault.azure.net/keys/", codeMalformed, "not a key's name"},
		{"Secret", "https://contoso.vault.azure.net/secrets/kek", codeMalformed, "secrets, not a key"},
		{"Certificate", "https://contoso.vault.azure.net/certificates/kek", codeMalformed, "certificates, not a key"},
		{"UpperPath", "https://contoso.vault.azure.net/Keys/kek", codeMalformed, "/keys/"},
		{"DoubleSlash", "https://contoso.vault.azure.net//keys/kek", codeMalformed, "/keys/"},
		{"SlashAtTheEnd", "https://contoso.vault.azure.net/keys/kek/", codeMalformed, "ends with a slash"},
		{"SlashAfterVersion", "https://contoso.vault.azure.net/keys/kek/" + someVersion + "/", codeMalformed, "ends with a slash"},
		{"DotDot", "https://contoso.vault.azure.net/keys/../secrets", codeMalformed, "not a key's name"},
		{"ShortVersion", "https://contoso.vault.azure.net/keys/kek/0123", codeMalformed, "not a key's version"},
		{"UpperVersion", "https://contoso.vault.azure.net/keys/kek/" + strings.ToUpper(someVersion), codeMalformed, "not a key's version"},
		{"Operation", "https://contoso.vault.azure.net/keys/kek/" + someVersion + "/unwrapkey", codeMalformed, "is not /keys/{name}"},
		{"LongName", "https://contoso.vault.azure.net/keys/" + strings.Repeat("k", 128), codeMalformed, "not a key's name"},
		{"Long", "https://contoso.vault.azure.net/keys/" + strings.Repeat("k", 500), codeMalformed, "bytes long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := ParseURL(c.in, registered)
			var e *URLError
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %v, want %s saying %q", err, c.code, c.says)
			}
			if !u.IsZero() {
				t.Errorf("got URL %+v, want the zero URL", u)
			}
		})
	}
}

func TestNoHostIsKnownByDefault(t *testing.T) {
	if _, err := ParseURL("https://contoso.vault.azure.net/keys/kek", Hosts{}); err == nil {
		t.Error("admitted a host that is not registered")
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("https://contoso.vault.azure.net/keys/kek")
	f.Add("https://c-1.vault.tidelock.localhost:8443/keys/k/" + someVersion)
	f.Add("https://contoso.vault.azure.net@evil.test/keys/kek")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s, registered)
		if err != nil {
			if !u.IsZero() {
				t.Fatalf("%q: an error and a URL", s)
			}
			return
		}
		again, err := ParseURL(u.String(), registered)
		if err != nil || again != u {
			t.Fatalf("%q = %+v; its canonical form = %+v, %v", s, u, again, err)
		}
		host, _, _ := strings.Cut(u.Host(), ":")
		if !strings.HasSuffix(host, ".vault.azure.net") && !strings.HasSuffix(host, ".vault.tidelock.localhost") {
			t.Fatalf("%q leads to host %q", s, u.Host())
		}
	})
}

func TestAzuresKeyStoresAreOnOnePort(t *testing.T) {
	hosts := Hosts{AzureSuffixes: []string{"vault.azure.net"}}
	if u, err := ParseURL("https://contoso.vault.azure.net:443/keys/kek", hosts); err != nil || u.Host() != "contoso.vault.azure.net" {
		t.Errorf("with port 443: got %+v, %v", u, err)
	}
	var e *URLError
	if u, err := ParseURL("https://contoso.vault.azure.net:8443/keys/kek", hosts); !errors.As(err, &e) || e.Code != codeMalformed || !strings.Contains(e.Message, "leave the port out") {
		t.Errorf("with another port: got %+v, %v", u, err)
	}
}
