package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectTimeout = 5 * time.Second
	// eachTimeout is for each of several hosts. They are tried in turn, those before the one that
	// takes writes with every connection: one whose machine is gone must not cost more than
	// those wait who ask for a connection (askTimeout, a node's lease).
	eachTimeout = 2 * time.Second
	// Connections are made anew now and then, so that a change of the servers' names
	// or settings is met without a restart.
	connectionLife = time.Hour
	// idleInTransaction ends a transaction whose node was paused in the middle of it: its
	// locks must not hold up the node that takes over.
	idleInTransaction = 10 * time.Second
	// lockTimeout ends the wait for a row: an append that meets the deletion of a large
	// document must not hold up the others in its batch for as long.
	lockTimeout = 2 * time.Second
)

// poolConfig turns options into pgx's.
func poolConfig(o Options) (*pgxpool.Config, error) {
	checked, err := checkURL(o.URL)
	if err != nil {
		return nil, err
	}
	c, err := pgxpool.ParseConfig(checked)
	if err != nil {
		return nil, err // without the password, if there is one
	}
	c.MaxConns = int32(min(o.PoolSize, 1<<15))
	c.MinIdleConns = 1
	c.MaxConnLifetime = connectionLife
	c.MaxConnLifetimeJitter = connectionLife / 4
	c.PingTimeout = askTimeout // of a connection that was idle: a caller who does not give up would wait for ever
	cc := c.ConnConfig
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = connectTimeout
		if slices.ContainsFunc(cc.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.Host != cc.Host || f.Port != cc.Port }) {
			cc.ConnectTimeout = eachTimeout
		}
	}
	if cc.ValidateConnect == nil && !o.ReadOnly {
		cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	set := func(name, value string) {
		if _, given := cc.RuntimeParams[name]; !given {
			cc.RuntimeParams[name] = value
		}
	}
	set("application_name", "tidelock")
	set("statement_timeout", strconv.FormatInt(o.StatementTimeout.Milliseconds(), 10))
	set("idle_in_transaction_session_timeout", strconv.FormatInt(idleInTransaction.Milliseconds(), 10))
	set("lock_timeout", strconv.FormatInt(lockTimeout.Milliseconds(), 10))
	cc.OnNotice = noteWarning
	if o.ReadOnly {
		set("default_transaction_read_only", "on")
	}
	if o.PasswordFile != "" {
		c.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
			password, err := os.ReadFile(o.PasswordFile)
			if err != nil {
				return fmt.Errorf("password of the database: %w", err)
			}
			cc.Password = string(bytes.TrimRight(password, "\r\n"))
			return nil
		}
	}
	if !o.ReadOnly {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return checkDurability(ctx, conn, o) }
		c.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) { return stillDurable(ctx, conn, o), nil }
	}
	return c, nil
}

// checkURL refuses what would give a password away, and asks for TLS where the way to
// the database leaves this machine.
func checkURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", errors.New("the URL must be postgres://user@host/database") // it may hold a password: it is not repeated
	}
	q := u.Query()
	if _, has := u.User.Password(); has || q.Has("password") {
		return "", errors.New("the URL holds a password, which every process of this machine can read: put it in a file and name that with --store-password-file")
	}
	mode := q.Get("sslmode")
	if mode == "" {
		mode = os.Getenv("PGSSLMODE")
	}
	host := u.Host
	if h := q.Get("host"); h != "" {
		host = h
	}
	if local(host) {
		return u.String(), nil
	}
	switch mode {
	case "verify-full", "verify-ca", "require":
	case "":
		q.Set("sslmode", "verify-full")
		u.RawQuery = q.Encode()
	default:
		return "", fmt.Errorf("sslmode=%s lets the way to %s go without TLS: leave it out (verify-full, with sslrootcert= if your authority is your own), or run the database on this machine", mode, host)
	}
	return u.String(), nil
}

// local says whether all of host[:port][,host[:port]…] are this machine.
func local(hosts string) bool {
	for _, h := range strings.Split(hosts, ",") {
		if name, _, err := net.SplitHostPort(h); err == nil {
			h = name
		}
		ip := net.ParseIP(strings.Trim(h, "[]"))
		if h != "" && h != "localhost" && !strings.HasPrefix(h, "/") && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// warned is the key under which a connection keeps that the server warned.
const warned = "tidelock_warned"

// noteWarning remembers a warning. None of our statements earns one; but a server whose
// wait for its standby was cut short commits, warns and reports success.
func noteWarning(c *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		c.CustomData()[warned] = n.Message
	}
}

// acknowledged turns the server's warning about a commit into an error.
func acknowledged(c *pgconn.PgConn, err error) error {
	message, has := c.CustomData()[warned]
	if !has {
		return err
	}
	delete(c.CustomData(), warned)
	return errors.Join(err, fmt.Errorf("the database warned, so the write may not be on its standby: %v", message))
}
