package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func page(t *testing.T, name ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, name...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestDependenciesHaveReasons: docs/dependencies.md names each direct dependency of go.mod, and
// no module that is none.
func TestDependenciesHaveReasons(t *testing.T) {
	text := page(t, "docs", "dependencies.md")
	direct := regexp.MustCompile(`(?m)^(?:require )?\t?((?:github\.com|golang\.org|go\.)\S+) v\S+$`)
	var all []string
	for _, m := range direct.FindAllStringSubmatch(page(t, "go.mod"), -1) {
		all = append(all, m[1])
		named := strings.TrimPrefix(m[1], "github.com/")
		if strings.HasPrefix(named, "Azure/") { // they stand in a row together
			named = regexp.MustCompile(`/v\d+$`).ReplaceAllString(named, "")
			named = "`" + named[strings.LastIndexByte(named, '/')+1:] + "`"
		}
		if !strings.Contains(text, named) {
			t.Errorf("docs/dependencies.md does not say what %s is for", m[1])
		}
	}
	if len(all) < 20 {
		t.Fatalf("found %d direct dependencies; the test looks in the wrong place", len(all))
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z][^` ]*/[^` ]*)` \\|").FindAllStringSubmatch(text, -1) {
		if m[1] != "hashicorp/go-azure-sdk" && !slices.Contains(all, m[1]) && !slices.Contains(all, "github.com/"+m[1]) && !slices.ContainsFunc(all, func(d string) bool { return strings.HasPrefix(d, "github.com/"+m[1]+"/") }) {
			t.Errorf("docs/dependencies.md lists %s, which go.mod does not require itself", m[1])
		}
	}
}

// TestDecisionsAreNumbered: without gaps, and each says its number and status.
func TestDecisionsAreNumbered(t *testing.T) {
	all, err := filepath.Glob(filepath.Join("..", "..", "docs", "decisions", "*.md"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no decisions: %v", err)
	}
	for n, path := range all {
		text := page(t, "docs", "decisions", filepath.Base(path))
		if !strings.HasPrefix(filepath.Base(path), fmt.Sprintf("%04d-", n+1)) || !strings.HasPrefix(text, fmt.Sprintf("# %d. ", n+1)) {
			t.Errorf("%s is not decision %d by its name and title", filepath.Base(path), n+1)
		}
		if !strings.Contains(text, "Status: ") {
			t.Errorf("%s has no status", filepath.Base(path))
		}
	}
}

// TestTheMapNamesEveryPackage: by its path below internal/; helpers of tests need not be on it.
func TestTheMapNamesEveryPackage(t *testing.T) {
	text := page(t, "ARCHITECTURE.md")
	for path := range packages(t, false) {
		name := strings.TrimPrefix(path, "internal/")
		if !regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).MatchString(text) && !strings.HasSuffix(path, "test") {
			t.Errorf("ARCHITECTURE.md does not name %s", path)
		}
	}
}
