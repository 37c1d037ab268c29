package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// weak is a database that may lose what it has acknowledged.
type weak struct{ why string }

func (w weak) Error() string { return w.why }

// checkDurability asks what a commit of this connection is worth. A server that does
// not know a setting does not have the weakness either. It is asked of every connection, and
// again now and then: settings change, and after a failover it is another server.
func checkDurability(ctx context.Context, conn *pgx.Conn, o Options) error {
	rows, err := conn.Query(ctx, `SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'synchronous_standby_names')`)
	if err != nil {
		return fmt.Errorf("ask how durable commits are: %w", err)
	}
	settings := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	})
	if err != nil {
		return fmt.Errorf("ask how durable commits are: %w", err)
	}
	conn.PgConn().CustomData()[durabilityAsked] = time.Now()
	err = durable(settings, o.NeedStandby)
	if w := (weak{}); o.MayLoseWrites && errors.As(err, &w) && settings["fsync"] != "off" {
		return nil
	}
	return err
}

const (
	// durabilityAge is how long the answer about a connection counts: a manager of the database
	// changes settings under connections that are open, as when its last standby is gone.
	durabilityAge = 5 * time.Second
	// durabilityAsked is the key under which a connection keeps when it was asked.
	durabilityAsked = "tidelock_durability_asked"
)

// stillDurable asks again what a commit of this connection is worth, if that is due. Where it says
// no, the connection is given up, and the one in its place says why.
func stillDurable(ctx context.Context, conn *pgx.Conn, o Options) bool {
	asked, _ := conn.PgConn().CustomData()[durabilityAsked].(time.Time)
	return time.Since(asked) < durabilityAge || checkDurability(ctx, conn, o) == nil
}

// durable judges the settings of a server.
func durable(settings map[string]string, needStandby bool) error {
	commit, known := settings["synchronous_commit"]
	standby := settings["synchronous_standby_names"] != ""
	switch {
	case settings["fsync"] == "off":
		return weak{"fsync is off: the database does not survive a power cut; turn it on"}
	case commit == "off":
		return weak{"synchronous_commit is off: the database acknowledges writes before they are on disk; set it to on for Tidelock's role, or say --store-may-lose-writes"}
	case commit == "local" && standby:
		return weak{"synchronous_commit is local: the database acknowledges writes before its standby has them; set it to on for Tidelock's role, or say --store-may-lose-writes"}
	case needStandby && known && !standby:
		return weak{"synchronous_standby_names is empty: writes that were acknowledged are lost when the database fails over; name a synchronous standby, or say --store-without-standby if its storage is replicated or it never fails over"}
	}
	return nil
}
