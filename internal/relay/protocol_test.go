package relay

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/protocol.md has every route, and the tests that it names are there.
func TestProtocolPage(t *testing.T) {
	const root = "../../"
	page, err := os.ReadFile(root + "docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range slices.Concat(restRoutes, localRoutes) {
		if !strings.Contains(string(page), "`"+row.pattern()+"`") {
			t.Errorf("docs/protocol.md has no row for %s", row.pattern())
		}
	}
	tests := allTests(t, root)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 100 {
		t.Errorf("docs/protocol.md names %d tests: are they written otherwise?", len(named))
	}
	for _, n := range named {
		if !strings.Contains(tests, "func "+n[1]+"(") {
			t.Errorf("docs/protocol.md names %s, which does not exist", n[1])
		}
	}
	for _, n := range regexp.MustCompile(`([\w/]+\.test\.mjs) "([^"]+)"`).FindAllStringSubmatch(string(page), -1) {
		script, err := os.ReadFile(filepath.Join(root, "e2e", n[1]))
		if err != nil || !strings.Contains(string(script), `test("`+n[2]+`"`) {
			t.Errorf("docs/protocol.md names %q of %s, which does not exist", n[2], n[1])
		}
	}
}

// allTests is the text of all Go tests of the project.
func allTests(t *testing.T, root string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"internal", "cmd", "e2e"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			if strings.HasSuffix(path, "_test.go") {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				all.Write(b)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
