package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestScenariosAreShown checks that docs/scenarios.md has a row for each of the 48
// scenarios, and that the tests and files which it names exist.
func TestScenariosAreShown(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "scenarios.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t, root)
	row := regexp.MustCompile(`(?m)^\| (\d+) \|([^|]*)\|([^|]*)\|$`)
	quoted := regexp.MustCompile("`([^`]+)`")
	next := 1
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		n, _ := strconv.Atoi(m[1])
		if n != next {
			t.Errorf("row %d stands in the place of %d", n, next)
		}
		next = n + 1
		names := quoted.FindAllStringSubmatch(m[3], -1)
		if len(names) == 0 && !strings.Contains(m[3], "not shown yet") {
			t.Errorf("scenario %d names no test, and does not say that it is not shown", n)
		}
		for _, name := range names {
			if strings.HasPrefix(name[1], "make ") || tests[name[1]] {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, name[1])); err != nil || strings.HasPrefix(name[1], "Test") {
				t.Errorf("scenario %d is said to be shown by %s, which does not exist", n, name[1])
			}
		}
	}
	if next != 49 {
		t.Errorf("the page ends with scenario %d, want 48", next-1)
	}
}

// testNames are the names of all tests in Go files.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, top := range []string{"internal", "cmd", "e2e"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			if err != nil || !strings.HasSuffix(file, "_test.go") {
				return err
			}
			source, err := os.ReadFile(file)
			for _, m := range declaration.FindAllSubmatch(source, -1) {
				found[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
