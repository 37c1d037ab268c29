package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step of the schema. A version, once released, is never edited.
type migration struct {
	version int
	name    string
	sql     string
	// tune makes it faster where the server can: each statement may be refused.
	tune []string
}

// migrations returns all steps in order: files NNNN_name.sql, with NNNN_name.tune.sql.
func migrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []migration
	for _, file := range names {
		base := strings.TrimSuffix(path.Base(file), ".sql")
		if strings.HasSuffix(base, ".tune") {
			continue
		}
		number, name, _ := strings.Cut(base, "_")
		version, err := strconv.Atoi(number)
		if err != nil || len(number) != 4 || name == "" {
			return nil, fmt.Errorf("migration %s: want NNNN_name.sql", file)
		}
		if n := len(all); n > 0 && all[n-1].version == version {
			return nil, fmt.Errorf("migration %s: version %d is there twice", file, version)
		}
		sql, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		tune, err := fs.ReadFile(files, strings.TrimSuffix(file, ".sql")+".tune.sql")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all = append(all, migration{version, name, string(sql), statements(string(tune))})
	}
	return all, nil
}

// statements splits a file of ours: comments have lines of their own, and no string
// holds a semicolon.
func statements(sql string) []string {
	var code strings.Builder
	for line := range strings.Lines(sql) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			code.WriteString(line)
		}
	}
	var all []string
	for s := range strings.SplitSeq(code.String(), ";") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// migrate brings the schema up to date. Any number of nodes may do it at once: of those
// that insert a version's row one goes on, and the others wait for it and see that it is
// done.
func (e *Engine) migrate(ctx context.Context) error {
	all, err := migrations(migrationFiles)
	if err != nil {
		return err
	}
	return retry(ctx, func(err error) bool { return notDone(err) || unreachable(err) || another(err) }, func() error {
		return e.once(ctx, func(ctx context.Context, c *pgx.Conn) error { return e.migrateOn(ctx, c, all) })
	})
}

// another says that another node has just made what we were about to make.
func another(err error) bool {
	code := codeOf(err)
	return code == uniqueViolation || code == duplicateTable || code == duplicateObject
}

// checkSchema wants the newest version, and makes none.
func (e *Engine) checkSchema(ctx context.Context) error {
	all, err := migrations(migrationFiles)
	if err != nil {
		return err
	}
	var version int
	err = e.pool.QueryRow(ctx, `SELECT max(version) FROM schema_versions`).Scan(&version)
	if newest := all[len(all)-1].version; err == nil && version != newest {
		err = fmt.Errorf("its schema is of version %d, and this Tidelock reads version %d: use the Tidelock that serves it", version, newest)
	}
	return err
}

const schemaTable = `CREATE TABLE IF NOT EXISTS schema_versions (
  version    integer     NOT NULL PRIMARY KEY,
  name       text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)`

func (e *Engine) migrateOn(ctx context.Context, c *pgx.Conn, all []migration) error {
	done, err := appliedVersions(ctx, c)
	if err != nil {
		return err
	}
	newest := all[len(all)-1].version
	for version, name := range done {
		if version > newest {
			return fmt.Errorf("its schema is of version %d (%s), made by a newer Tidelock; this one knows versions up to %d: run that Tidelock or a later one. Nothing was changed", version, name, newest)
		}
	}
	for _, m := range all {
		if _, has := done[m.version]; has {
			continue
		}
		if err := m.apply(ctx, c); err != nil {
			return fmt.Errorf("bring the schema to version %d (%s): %w", m.version, m.name, err)
		}
		for _, s := range m.tune {
			if _, err := c.Exec(ctx, s); err != nil {
				e.o.Log.Info("postgres: the server does not take a setting that would make it faster", "statement", s, "err", err)
			}
		}
	}
	return nil
}

// appliedVersions returns the names of the versions that the schema has.
func appliedVersions(ctx context.Context, c *pgx.Conn) (map[int]string, error) {
	// A role that may not make tables can still run on a schema that is complete.
	var missing bool
	if err := c.QueryRow(ctx, `SELECT NOT EXISTS (SELECT 1 FROM information_schema.tables
		WHERE table_name = 'schema_versions' AND table_schema = ANY (current_schemas(false)))`).Scan(&missing); err != nil {
		return nil, err
	}
	if missing {
		if _, err := c.Exec(ctx, schemaTable); err != nil {
			return nil, fmt.Errorf("make the table of schema versions: %w", err)
		}
	}
	rows, err := c.Query(ctx, `SELECT version, name FROM schema_versions`)
	if err != nil {
		return nil, err
	}
	done := map[int]string{}
	var version int
	var name string
	_, err = pgx.ForEachRow(rows, []any{&version, &name}, func() error {
		done[version] = name
		return nil
	})
	return done, err
}

func (m migration) apply(ctx context.Context, c *pgx.Conn) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO schema_versions (version, name) VALUES ($1, $2)`, m.version, m.name); err != nil {
			return err
		}
		for _, s := range statements(m.sql) {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}
