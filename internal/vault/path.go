package vault

import (
	"regexp"
	"strings"
)

// target is what a request's path names:
//
//	/keys[/{key}[/{version}][/{operation}]]
//	/deletedkeys[/{key}[/{operation}]]
//	/rng, /securitydomain/…, /backup, /restore
type target struct {
	collection string // keys or deletedkeys
	key        string // as the client wrote it
	version    string // lower case
	operation  string // lower case
	role       *roleTarget
}

var (
	keyName    = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	keyVersion = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// maxPathBytes is more than any valid path has.
const maxPathBytes = 512

// parsePath takes an escaped path. Clients leave the version out by a trailing
// slash (/keys/k/), an empty segment (/keys/k//wrapkey) or no segment at all
// (/keys/k/wrapkey), so what stands in the version's place and is no version is an
// operation.
func parsePath(path string) (target, error) {
	if len(path) > maxPathBytes {
		return target{}, badParameter("The request URI is too long.")
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	t := target{collection: strings.ToLower(segments[0])}
	rest := segments[1:]
	switch t.collection {
	case "keys", "deletedkeys":
	case "securitydomain":
		return t, nil // whatever comes behind it
	case "rng", "backup", "restore":
		if len(rest) > 0 && t.collection == "rng" && rest[0] != "" {
			return target{}, badParameter("The request URI contains an invalid name: %s", printable(rest[0]))
		}
		return t, nil
	default:
		return target{}, badParameter("The request URI contains an invalid name: %s. This vault has keys, and no secrets, certificates, storage accounts or settings.", printable(segments[0]))
	}
	if len(rest) == 0 || len(rest) == 1 && rest[0] == "" {
		return t, nil
	}
	// No escapes: no valid segment needs one.
	if t.key = rest[0]; !keyName.MatchString(t.key) {
		return target{}, badParameter("The request URI contains an invalid name: %s", printable(t.key))
	}
	rest = rest[1:]
	if len(rest) > 0 {
		if v := strings.ToLower(rest[0]); v == "" || t.collection == "keys" && keyVersion.MatchString(v) {
			t.version, rest = v, rest[1:]
		}
	}
	if len(rest) > 0 {
		t.operation, rest = strings.ToLower(rest[0]), rest[1:]
	}
	if len(rest) > 0 {
		return target{}, badParameter("The request URI has segments behind the operation '%s'", printable(t.operation))
	}
	return t, nil
}

// shape is the path's form, as routes name it.
func (t target) shape() string {
	if t.role != nil {
		return t.role.shape()
	}
	s := t.collection
	if t.key != "" {
		s += "/{key}"
	}
	if t.operation != "" {
		s += "/" + t.operation
	}
	return s
}

// printable makes a part of a request fit for a message and a log line.
func printable(s string) string {
	const most = 64
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '\'' || r == '"' {
			return '?'
		}
		return r
	}, s)
	if len(clean) > most {
		clean = clean[:most] + "..."
	}
	return clean
}
