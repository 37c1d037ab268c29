package arm

import (
	"fmt"
	"slices"
	"strings"
)

// ResourceID is a parsed ARM resource id. Names keep the letters they were written
// with; ids are compared by Key, without regard to case.
type ResourceID struct {
	Subscription  string
	ResourceGroup string
	Namespace     string   // Microsoft.FluidRelay; empty for subscriptions and groups themselves
	Types         []string // fluidRelayServers, fluidRelayContainers
	Names         []string // one for each type, or one less: the id of a collection
}

const (
	maxIDBytes   = 2048
	maxNameRunes = 260
)

// ParseResourceID takes the id of one resource in a resource group, with or
// without a slash at its end. Fixed parts are matched without case. The id of a
// collection, of a group, or with an illegal name is refused.
func ParseResourceID(s string) (ResourceID, error) {
	bad := func(why string) (ResourceID, error) {
		return ResourceID{}, fmt.Errorf("%q is not a resource id: %s; it has the form /subscriptions/{id}/resourceGroups/{group}/providers/{namespace}/{type}/{name}", truncate(s), why)
	}
	if len(s) > maxIDBytes {
		return bad(fmt.Sprintf("it is longer than %d bytes", maxIDBytes))
	}
	rest, rooted := strings.CutPrefix(s, "/")
	if !rooted {
		return bad("it does not begin with a slash")
	}
	parts := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	if len(parts) < 8 || len(parts)%2 != 0 {
		return bad("parts are missing")
	}
	for i, fixed := range map[int]string{0: "subscriptions", 2: "resourceGroups", 4: "providers"} {
		if !strings.EqualFold(parts[i], fixed) {
			return bad(fmt.Sprintf("%q should be %q", parts[i], fixed))
		}
	}
	if !isGUID(parts[1]) {
		return bad("its subscription is not a GUID")
	}
	for _, p := range parts {
		if err := CheckName(p); err != nil {
			return bad(err.Error())
		}
	}
	id := ResourceID{Subscription: parts[1], ResourceGroup: parts[3], Namespace: parts[5]}
	for i := 6; i < len(parts); i += 2 {
		id.Types = append(id.Types, parts[i])
		id.Names = append(id.Names, parts[i+1])
	}
	return id, nil
}

// String returns the id with its fixed parts in Azure's spelling.
func (id ResourceID) String() string {
	var b strings.Builder
	if id.Subscription != "" {
		b.WriteString("/subscriptions/" + id.Subscription)
	}
	if id.ResourceGroup != "" {
		b.WriteString("/resourceGroups/" + id.ResourceGroup)
	}
	if id.Namespace != "" {
		b.WriteString("/providers/" + id.Namespace)
	}
	for i, t := range id.Types {
		b.WriteString("/" + t)
		if i < len(id.Names) {
			b.WriteString("/" + id.Names[i])
		}
	}
	return b.String()
}

// Key is equal for two spellings of the same id.
func (id ResourceID) Key() string { return strings.ToLower(id.String()) }

// Name is the last name; empty for a subscription or group.
func (id ResourceID) Name() string {
	if len(id.Names) == 0 {
		return ""
	}
	return id.Names[len(id.Names)-1]
}

// Type is the full type, such as Microsoft.FluidRelay/fluidRelayServers.
func (id ResourceID) Type() string {
	return strings.Join(append([]string{id.Namespace}, id.Types...), "/")
}

// IsType says whether the id is of a resource of this full type.
func (id ResourceID) IsType(full string) bool {
	return len(id.Types) == len(id.Names) && strings.EqualFold(id.Type(), full)
}

// Scope is where permissions for the id are looked up: the resource itself, or
// what contains the collection.
func (id ResourceID) Scope() string {
	if len(id.Names) == len(id.Types) && len(id.Names) > 0 {
		return id.String()
	}
	id.Types = slices.Clone(id.Types[:len(id.Names)])
	if len(id.Types) == 0 {
		id.Namespace = ""
	}
	if s := id.String(); s != "" {
		return s
	}
	return "/"
}

// CheckName refuses what no resource of Azure may be called: such a name would make
// ids ambiguous. Types have their own, stricter rules.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a name is empty")
	case len([]rune(name)) > maxNameRunes:
		return fmt.Errorf("a name has more than %d characters", maxNameRunes)
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a name", name)
	}
	for _, c := range name {
		if c < 0x20 || c == 0x7f || c == '\uFFFD' || strings.ContainsRune(`<>%&:\?/`, c) {
			return fmt.Errorf("the name %q has the character %q, which names may not have", name, c)
		}
	}
	return nil
}

// isGUID says whether s is 8-4-4-4-12 hexadecimal digits.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'):
			return false
		}
	}
	return true
}

func truncate(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

// ShortLocation is a region's short form: "West US 2" is westus2.
func ShortLocation(s string) string {
	return strings.ToLower(strings.Map(func(c rune) rune {
		if c == ' ' || c == '\t' || c == '\u00a0' {
			return -1
		}
		return c
	}, s))
}
