package entra

import (
	"errors"
	"testing"

	"github.com/tidelock/tidelock/internal/store"
)

func TestAllowed(t *testing.T) {
	s, p := openTest(t)
	other, err := s.CreateManagedIdentity(t.Context(), p.Directory, "/other")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct{ role, scope string }{
		{"Owner", "/subscriptions/Sub/resourceGroups/owned"},
		{"contributor", "/subscriptions/Sub/resourceGroups/shared/"},
		{"Reader", "/subscriptions/Sub"},
	} {
		if err := s.Assign(t.Context(), p.ObjectID, a.role, a.scope); err != nil {
			t.Fatal(err)
		}
		if err := s.Assign(t.Context(), p.ObjectID, a.role, a.scope); err != nil {
			t.Errorf("assigning %s again: %v", a.role, err)
		}
	}
	const (
		relay = "/providers/Microsoft.FluidRelay/fluidRelayServers/r"
		read  = "Microsoft.FluidRelay/fluidRelayServers/read"
		write = "Microsoft.FluidRelay/fluidRelayServers/write"
		keys  = "Microsoft.FluidRelay/fluidRelayServers/listKeys/action"
		grant = "Microsoft.Authorization/roleAssignments/write"
	)
	for _, test := range []struct {
		name          string
		who           string
		action, scope string
		want          bool
	}{
		{"OwnerWrites", p.ObjectID, write, "/subscriptions/sub/resourcegroups/OWNED" + relay, true},
		{"OwnerGrants", p.ObjectID, grant, "/subscriptions/sub/resourceGroups/owned", true},
		{"ContributorWrites", p.ObjectID, write, "/subscriptions/sub/resourceGroups/shared" + relay, true},
		{"ContributorListsKeys", p.ObjectID, keys, "/subscriptions/sub/resourceGroups/shared" + relay, true},
		{"ContributorDoesNotGrant", p.ObjectID, grant, "/subscriptions/sub/resourceGroups/shared", false},
		{"ContributorDoesNotGrantInCapitals", p.ObjectID, "MICROSOFT.AUTHORIZATION/ROLEASSIGNMENTS/WRITE", "/subscriptions/sub/resourceGroups/shared", false},
		{"ContributorDoesNotElevate", p.ObjectID, "Microsoft.Authorization/elevateAccess/action", "/subscriptions/sub/resourceGroups/shared", false},
		{"ContributorReadsGrants", p.ObjectID, "Microsoft.Authorization/roleAssignments/read", "/subscriptions/sub/resourceGroups/shared", true},
		{"ReaderReads", p.ObjectID, read, "/subscriptions/sub/resourceGroups/else" + relay, true},
		{"ReaderDoesNotWrite", p.ObjectID, write, "/subscriptions/sub/resourceGroups/else" + relay, false},
		{"ReaderDoesNotListKeys", p.ObjectID, keys, "/subscriptions/sub/resourceGroups/else" + relay, false},
		{"SiblingWithTheSamePrefix", p.ObjectID, write, "/subscriptions/sub/resourceGroups/owned2" + relay, false},
		{"OtherSubscription", p.ObjectID, read, "/subscriptions/sub2", false},
		{"Above", p.ObjectID, read, "/", false},
		{"DotSegments", p.ObjectID, write, "/subscriptions/sub/resourceGroups/owned/../else" + relay, false},
		{"EmptySegment", p.ObjectID, write, "/subscriptions/sub/resourceGroups/owned//x", false},
		{"NoScope", p.ObjectID, read, "", false},
		{"NoAction", p.ObjectID, "", "/subscriptions/sub/resourceGroups/owned", false},
		{"Other", other.ObjectID, read, "/subscriptions/sub", false},
		{"Nobody", "", read, "/subscriptions/sub", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := s.Allowed(t.Context(), Caller{ObjectID: test.who}, test.action, test.scope)
			if err != nil || got != test.want {
				t.Errorf("%s at %s: got %t, %v, want %t", test.action, test.scope, got, err, test.want)
			}
		})
	}

	if err := s.DeleteManagedIdentity(t.Context(), testIdentity); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Allowed(t.Context(), Caller{ObjectID: p.ObjectID}, read, "/subscriptions/sub"); err != nil || got {
		t.Errorf("a deleted principal: got %t, %v", got, err)
	}
}

func TestAssignRefuses(t *testing.T) {
	s, p := openTest(t)
	for name, test := range map[string]struct{ who, role, scope string }{
		"UnknownRole":      {p.ObjectID, "God", "/subscriptions/s"},
		"RelativeScope":    {p.ObjectID, "Owner", "subscriptions/s"},
		"DotSegments":      {p.ObjectID, "Owner", "/subscriptions/s/.."},
		"NoScope":          {p.ObjectID, "Owner", ""},
		"UnknownPrincipal": {"5f4b3d3a-0000-4000-8000-000000000000", "Owner", "/subscriptions/s"},
	} {
		err := s.Assign(t.Context(), test.who, test.role, test.scope)
		if err == nil || errors.Is(err, store.ErrNotFound) != (name == "UnknownPrincipal") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestMatchAction(t *testing.T) {
	for _, test := range []struct {
		pattern, action string
		want            bool
	}{
		{"*", "anything/at/all", true},
		{"*/read", "Microsoft.X/y/READ", true},
		{"*/read", "read", false},
		{"a/*/c", "a/b/c", true},
		{"a/*/c", "a/b/b/c", true},
		{"a/*/c", "a/c", true},
		{"a/*/c", "ac", false},
		{"a/*", "a", false},
		{"a/*/*/d", "a/b/c/d", true},
		{"a/*/*/d", "a/b/d", true},
		{"a/*/*/d", "a/d", false},
		{"a/b", "A/B", true},
		{"a/b", "a/b/c", false},
		{"ab*ba", "aba", false},
		{"", "a", false},
	} {
		if got := matchAction(test.pattern, test.action); got != test.want {
			t.Errorf("%q, %q: got %t, want %t", test.pattern, test.action, got, test.want)
		}
	}
}
