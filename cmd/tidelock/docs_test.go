package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
)

// TestDocumentedCommandsExist: every command line of the README and of docs/ names a
// command, and flags that it has. (docs/formats has the first words of files instead.)
func TestDocumentedCommandsExist(t *testing.T) {
	repository := filepath.Join("..", "..")
	pages := []string{filepath.Join(repository, "README.md"), filepath.Join(repository, "ARCHITECTURE.md")}
	for _, glob := range []string{"*.md", filepath.Join("decisions", "*.md")} {
		found, err := filepath.Glob(filepath.Join(repository, "docs", glob))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	// In a line of a block of commands, or quoted within a sentence.
	line := regexp.MustCompile("(?m)(?:^|`)tidelock ([^`\n]+)")
	end := regexp.MustCompile(`\s#|[;>&|]|\s\\$`)
	next := regexp.MustCompile(`[;&] +tidelock `) // several on a line
	flag := regexp.MustCompile(`--[a-z][a-z0-9-]*`)
	checked := 0
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(strings.ReplaceAll(string(raw), "\\\n", " "), -1) {
			for _, part := range next.Split(m[1], -1) {
				if at := end.FindStringIndex(part); at != nil {
					part = part[:at[0]]
				}
				words := strings.Fields(part)
				if len(words) == 0 || !regexp.MustCompile(`^[a-z-]+$`).MatchString(words[0]) {
					continue
				}
				root := newRoot(&cli.Options{Out: io.Discard, Err: io.Discard, ProfilePath: app.ProfilePath})
				command, rest, err := root.Find(words)
				if err != nil || command == root {
					t.Errorf("%s: tidelock %s: there is no such command", filepath.Base(page), part)
					continue
				}
				if !command.Runnable() && len(rest) > 0 && rest[0] != "…" && !strings.HasPrefix(rest[0], "-") {
					t.Errorf("%s: tidelock %s: %q has no %q", filepath.Base(page), part, command.CommandPath(), rest[0])
				}
				for _, name := range flag.FindAllString(part, -1) {
					if command.Runnable() && command.Flag(strings.TrimPrefix(name, "--")) == nil {
						t.Errorf("%s: tidelock %s: there is no flag %s", filepath.Base(page), part, name)
					}
				}
				checked++
			}
		}
	}
	if checked < 40 {
		t.Errorf("%d command lines were found; the test looks for them in the wrong way", checked)
	}
	t.Logf("%d command lines", checked)
}
