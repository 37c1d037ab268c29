package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidelock/tidelock/"

// mayImport is policy, not description: discuss before loosening it. Paths are
// below internal/. A package that is not listed may not exist.
var mayImport = map[string][]string{
	"envelope":  {},
	"anchor":    {"envelope"},
	"arm":       {},
	"rawjson":   {},
	"socketio":  {"rawjson"},
	"sequencer": {},
	"store":     {"envelope"},
	"row":       {"envelope", "store"},
	"cluster":   {"envelope", "row", "store"},
	"keystore":  {},
	"custody":   {"anchor", "envelope", "keystore", "store"},
	"history":   {"envelope", "custody", "sequencer", "store"},
	"relay":     {"envelope", "cluster", "custody", "history", "rawjson", "row", "sequencer", "socketio", "store"},
	"entra":     {"arm", "envelope", "row", "store"},
	"vault":     {"arm", "entra", "envelope", "row", "store"},
	"pkcs11":    {},
	"rsatest":   {},
	"provider":  {"arm", "custody", "entra", "envelope", "keystore", "row", "store", "vault"},
	"bench":     {"rawjson"},
	"cli":       {"bench"},
	"proxy":     {},
	"archtest":  {},
	"app":       {"*"},
	"cmd":       {"app", "cli", "proxy"},
}

// standardLibraryOnly lists packages whose code (tests aside) imports nothing else.
var standardLibraryOnly = []string{"envelope", "rawjson", "sequencer", "store", "arm"}

func TestLayers(t *testing.T) {
	for path, imports := range packages(t, false) {
		layer := layerOf(path)
		allowed, known := mayImport[layer]
		if !known {
			t.Errorf("%s: no layer %q in mayImport; add it with the layers it may import", path, layer)
			continue
		}
		for _, imported := range imports {
			below, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if strings.HasSuffix(below, "test") { // helpers of tests
				if !strings.HasSuffix(path, "test") {
					t.Errorf("%s imports %s, which is for tests", path, below)
				}
				continue
			}
			to := layerOf(below)
			if to != layer && !slices.Contains(allowed, to) && !slices.Contains(allowed, "*") {
				t.Errorf("%s imports %s: layer %s may import only %v", path, below, layer, allowed)
			}
		}
	}
}

func TestStandardLibraryOnly(t *testing.T) {
	for path, imports := range packages(t, false) {
		// Engines under store/ bring their own libraries; the contract does not.
		if !slices.Contains(standardLibraryOnly, strings.TrimPrefix(path, "internal/")) {
			continue
		}
		for _, imported := range imports {
			if !strings.HasPrefix(imported, module) && strings.Contains(strings.Split(imported, "/")[0], ".") {
				t.Errorf("%s imports %s; it may import only the standard library", path, imported)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := map[string]bool{}
	eachFile(t, parser.PackageClauseOnly|parser.ParseComments, func(path string, file string, doc bool, _ []string) {
		documented[path] = documented[path] || doc
	})
	for path, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", path)
		}
	}
}

// layerOf maps a package path to its layer: internal/provider/x is provider.
func layerOf(path string) string {
	path = strings.TrimPrefix(path, "internal/")
	return strings.Split(path, "/")[0]
}

// packages returns the imports of each package of the module.
func packages(t *testing.T, tests bool) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	eachFile(t, parser.ImportsOnly, func(path, file string, _ bool, imports []string) {
		if tests || !strings.HasSuffix(file, "_test.go") {
			found[path] = append(found[path], imports...)
		}
	})
	if len(found) < 10 {
		t.Fatalf("found %d packages; the test looks in the wrong place", len(found))
	}
	return found
}

func eachFile(t *testing.T, mode parser.Mode, visit func(path, file string, doc bool, imports []string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	fset := token.NewFileSet()
	for _, top := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(file, ".go") {
				return nil
			}
			f, err := parser.ParseFile(fset, file, nil, mode)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, filepath.Dir(file))
			if err != nil {
				return err
			}
			var imports []string
			for _, i := range f.Imports {
				imports = append(imports, strings.Trim(i.Path.Value, `"`))
			}
			doc := f.Doc != nil && !strings.HasSuffix(file, "_test.go")
			visit(filepath.ToSlash(rel), file, doc, imports)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
