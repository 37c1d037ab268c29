package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var sourceFiles = os.DirFS(".")

func TestURLsThatAreRefused(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for _, c := range []struct{ name, url, want string }{
		{"Password", "postgres://a:secret@localhost/db", "holds a password"},
		{"PasswordAsParameter", "postgres://a@localhost/db?password=secret", "holds a password"},
		{"OtherScheme", "mysql://a@localhost/db", "postgres://user@host/database"},
		{"NoURL", "host=localhost password=secret", "postgres://user@host/database"},
		{"WithoutTLS", "postgres://a@db.example/db?sslmode=disable", "without TLS"},
		{"PerhapsWithoutTLS", "postgres://a@localhost,db.example/db?sslmode=prefer", "without TLS"},
		{"HostAsParameter", "postgres:///db?host=db.example&sslmode=allow", "without TLS"},
		{"LoopbackInName", "postgres://a@127.0.0.1.example/db?sslmode=disable", "without TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := poolConfig(Options{URL: c.url})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q and no password", err, c.want)
			}
		})
	}
}

func TestTLSUnlessLocal(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for _, c := range []struct {
		url    string
		verify bool // the server's certificate, for its name
		plain  bool // without TLS at all
	}{
		{"postgres://a@db.example/db", true, false},
		{"postgres://a@db.example,db2.example:5433/db", true, false},
		{"postgres://a@db.example/db?sslmode=require", false, false},
		{"postgres://a@[::1]:5432/db?sslmode=disable", false, true},
		{"postgres://a@127.0.0.1/db?sslmode=disable", false, true},
		{"postgres:///db?host=/run/postgresql", false, true},
	} {
		config, err := poolConfig(Options{URL: c.url})
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		tls := config.ConnConfig.TLSConfig
		if (tls == nil) != c.plain || tls != nil && (tls.InsecureSkipVerify == c.verify) {
			t.Errorf("%s: TLS is %v", c.url, tls != nil)
		}
		for _, f := range config.ConnConfig.Fallbacks {
			if f.TLSConfig == nil && !c.plain {
				t.Errorf("%s: falls back to no TLS", c.url)
			}
		}
	}
}

// Of several hosts none may keep a connection waiting for as long as a single one may.
func TestConnectTimeout(t *testing.T) {
	t.Setenv("PGCONNECT_TIMEOUT", "")
	for url, want := range map[string]time.Duration{
		"postgres://a@db.example/db":                               connectTimeout,
		"postgres://a@localhost/db":                                connectTimeout,
		"postgres://a@db.example,db2.example/db":                   eachTimeout,
		"postgres://a@db.example:5432,db.example:5433/db":          eachTimeout,
		"postgres:///db?host=/run/a,/run/b":                        eachTimeout,
		"postgres://a@db.example,db2.example/db?connect_timeout=7": 7 * time.Second,
	} {
		config, err := poolConfig(Options{URL: url})
		if err != nil || config.ConnConfig.ConnectTimeout != want {
			t.Errorf("%s: %s, %v; want %s", url, config.ConnConfig.ConnectTimeout, err, want)
		}
	}
}

// A password is read for each connection, so that it may change.
func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	config, err := poolConfig(Options{URL: "postgres://a@localhost/db", PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	cc := config.ConnConfig.Copy()
	if err := config.BeforeConnect(t.Context(), cc); err == nil {
		t.Error("a missing password file is no error")
	}
	for _, password := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := config.BeforeConnect(t.Context(), cc); err != nil || cc.Password != password {
			t.Errorf("got %q, %v; want %q", cc.Password, err, password)
		}
	}
}

func TestWeakDatabasesAreRefused(t *testing.T) {
	settings := func(fsync, commit, standbys string) map[string]string {
		return map[string]string{"fsync": fsync, "synchronous_commit": commit, "synchronous_standby_names": standbys}
	}
	for _, c := range []struct {
		name     string
		settings map[string]string
		standby  bool
		want     string
	}{
		{"Default", settings("on", "on", ""), false, ""},
		{"WithStandby", settings("on", "on", "ANY 1 (a, b)"), true, ""},
		{"Applied", settings("on", "remote_apply", "*"), true, ""},
		{"OtherDatabase", map[string]string{}, true, ""},
		{"LocalWithoutStandby", settings("on", "local", ""), false, ""},
		{"NoFsync", settings("off", "on", "*"), false, "fsync is off"},
		{"CommitOff", settings("on", "off", ""), false, "synchronous_commit is off"},
		{"LocalWithStandby", settings("on", "local", "*"), false, "synchronous_commit is local"},
		{"NoStandby", settings("on", "on", ""), true, "synchronous_standby_names is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := durable(c.settings, c.standby)
			var w weak
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &w) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
