package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest   = regexp.MustCompile("`([a-z]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	namedScript = regexp.MustCompile("`(e2e/[^` ]+)`")
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
	delimiter   = regexp.MustCompile(`^\|[-| ]+\|$`)
)

// The parity pages name, for each operation, rule and error, the test that shows it: each
// row of a table has one, and each is there.
func TestParityPagesNameTests(t *testing.T) {
	root := filepath.Join("..", "..")
	there := testsOf(t, root)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "parity*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no parity page: %v", err)
	}
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(page)
		lines := strings.Split(string(raw), "\n")
		for n, line := range lines {
			for _, m := range namedTest.FindAllStringSubmatch(line, -1) {
				if !there[m[1]+"."+m[2]] {
					t.Errorf("%s:%d: there is no test %s in a package %s", name, n+1, m[2], m[1])
				}
			}
			scripts := namedScript.FindAllStringSubmatch(line, -1)
			for _, m := range scripts {
				if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
					t.Errorf("%s:%d: %v", name, n+1, err)
				}
			}
			isHead := n+1 < len(lines) && delimiter.MatchString(lines[n+1])
			if name == "parity.md" && strings.HasPrefix(line, "|") && !isHead && !delimiter.MatchString(line) && !namedTest.MatchString(line) && len(scripts) == 0 {
				t.Errorf("%s:%d: this row names no test: %s", name, n+1, line)
			}
		}
	}
}

// testsOf finds the test functions of the module, by package (its directory's name).
func testsOf(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, top := range []string{"internal", "cmd", "e2e"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, "_test.go") {
				return nil
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range testFunc.FindAllStringSubmatch(string(raw), -1) {
				found[filepath.Base(filepath.Dir(path))+"."+m[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
