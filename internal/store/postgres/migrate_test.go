package postgres

import (
	"io/fs"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func TestManyNodesMigrateAtOnce(t *testing.T) {
	url := pgtest.Shared(t).NewDatabase(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			e, err := Open(t.Context(), Options{URL: url})
			if err != nil {
				t.Error(err)
				return
			}
			e.Close()
		})
	}
	wg.Wait()
	e := openURL(t, url)
	all, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := e.Pool().QueryRow(t.Context(), "SELECT count(*) FROM schema_versions").Scan(&n); err != nil || n != len(all) {
		t.Errorf("%d versions are noted, %v; want %d", n, err, len(all))
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	url := pgtest.Shared(t).NewDatabase(t)
	e := openURL(t, url)
	if _, err := e.Pool().Exec(t.Context(), "INSERT INTO schema_versions (version, name) VALUES (9000, 'from-tomorrow')"); err != nil {
		t.Fatal(err)
	}
	e.Close()
	again, err := Open(t.Context(), Options{URL: url})
	if err == nil {
		again.Close()
		t.Fatal("a schema of a newer Tidelock was opened")
	}
	if want := "version 9000 (from-tomorrow), made by a newer Tidelock"; !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want %q in it", err, want)
	}
}

// What the first version of the schema holds is there, and goes on, after an upgrade.
func TestEarlierSchemaIsUpgraded(t *testing.T) {
	url := pgtest.Shared(t).NewDatabase(t)
	e := openURL(t, url)
	d := storetest.NewDoc(t)
	c, err := e.Claim(t.Context(), d.Handle)
	if err == nil {
		err = e.Append(t.Context(), d.Append(c, 0, 1, "before"))
	}
	object := d.Object("id", "before")
	if err == nil {
		err = e.PutObjects(t.Context(), d.Handle, []store.Object{object})
	}
	if err != nil {
		t.Fatal(err)
	}
	// Back to the first version, which such data has no need of more than.
	for _, sql := range []string{
		"ALTER TABLE objects DROP COLUMN blob", "ALTER TABLE objects DROP COLUMN blob_bytes", "DROP TABLE blobs",
		"DELETE FROM schema_versions WHERE version > 1",
	} {
		if _, err := e.Pool().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	e.Close()

	e = openURL(t, url)
	got, err := e.Read(t.Context(), d.Handle, 1, 9, 0)
	if err != nil || got.Head != 1 || len(got.Records) != 1 {
		t.Errorf("the log after the upgrade: %+v, %v", got, err)
	}
	if has, err := e.HasObject(t.Context(), d.Handle, object.Name); err != nil || !has {
		t.Errorf("the object after the upgrade: %t, %v", has, err)
	}
	if err := e.Append(t.Context(), d.Append(c, 1, 2, "after")); err != nil {
		t.Errorf("an append after the upgrade: %v", err)
	}
}

// Once the schema is complete, a role that may not change it is enough.
func TestRoleWithoutTheRightToMakeTables(t *testing.T) {
	server := pgtest.Start(t) // roles are of the whole server
	url := server.NewDatabase(t)
	e := openURL(t, url)
	for _, sql := range []string{
		"CREATE ROLE plain LOGIN",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain",
	} {
		if _, err := e.Pool().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	plain := openURL(t, strings.Replace(url, "postgres@", "plain@", 1))
	if err := plain.Writable(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := Open(t.Context(), Options{URL: strings.Replace(server.NewDatabase(t), "postgres@", "plain@", 1)})
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("an empty database under the role: got %v, want it refused", err)
	}
}

func TestMigrationsThatAreRefused(t *testing.T) {
	for name, files := range map[string][]string{
		"Twice":    {"0001_a.sql", "0001_b.sql"},
		"NoNumber": {"a.sql"},
		"NoName":   {"0001.sql"},
	} {
		fsys := fstest.MapFS{}
		for _, f := range files {
			fsys["migrations/"+f] = &fstest.MapFile{Data: []byte("SELECT 1")}
		}
		if _, err := migrations(fsys); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// forbidden is what some database that speaks PostgreSQL's protocol lacks, or what would
// make nodes depend on one session of one server.
var forbidden = regexp.MustCompile(`(?i)\b(advisory|listen|notify|create\s+(extension|function|procedure|trigger|rule|type|domain|materialized)|` +
	`language|do\s+\$|serial|bigserial|generated|sequence|nextval|references|foreign\s+key|exclude|inherits|tablespace|` +
	`lock\s+table|declare|fetch|copy|temp|temporary|unlogged|lateral|merge|vacuum|ctid|xmin|savepoint|skip\s+locked|` +
	`deferrable|partition\s+(by|of)|using\s+(gin|gist|brin|hash))\b`)

// tableKey finds each table's name, its first column and the first column of its key.
var createTable = regexp.MustCompile(`(?is)CREATE TABLE(?: IF NOT EXISTS)? (\w+) \((.*?)\n\)`)

func TestStatementsArePortable(t *testing.T) {
	all, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	check := func(where, sql string) {
		sql = regexp.MustCompile(`--.*`).ReplaceAllString(sql, "")
		if found := forbidden.FindString(sql); found != "" {
			t.Errorf("%s uses %q, which not every database has", where, found)
		}
		for _, table := range createTable.FindAllStringSubmatch(sql, -1) {
			key := regexp.MustCompile(`(\w+)[^\n,]*\bPRIMARY KEY\b|PRIMARY KEY \((\w+)`).FindStringSubmatch(table[2])
			if key == nil {
				t.Errorf("%s: table %s has no primary key", where, table[1])
				continue
			}
			if strings.Contains(table[2], " document ") || strings.HasPrefix(strings.TrimSpace(table[2]), "document") {
				if first := key[1] + key[2]; first != "document" {
					t.Errorf("%s: the key of %s begins with %s; want it to begin with the document, which it is spread by", where, table[1], first)
				}
			}
		}
	}
	for _, m := range all {
		check("migration "+m.name, m.sql)
	}
	// The statements in the code: all that is between back quotes or double quotes and is SQL.
	statement := regexp.MustCompile("(?s)[`\"]\\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|SHOW|BEGIN)\\b[^`\"]*[`\"]")
	found := 0
	sources, err := fs.Glob(sourceFiles, "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := fs.ReadFile(sourceFiles, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range statement.FindAllString(string(source), -1) {
			found++
			check(name, sql)
		}
	}
	if found < 15 {
		t.Errorf("found %d statements in the code; the test looks in the wrong place", found)
	}
}
