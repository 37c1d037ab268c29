package entra

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/store"
)

const (
	testSub   = "/subscriptions/11111111-1111-1111-1111-111111111111"
	testGroup = testSub + "/resourceGroups/rg"
	testVault = testGroup + "/providers/Microsoft.KeyVault/vaults/v"
	testKey   = testVault + "/keys/k"
)

// rights says who may do what, by role: y and n in the order of rightsOf.
var rightsOf = []string{
	"Microsoft.FluidRelay/fluidRelayServers/read",
	"Microsoft.FluidRelay/fluidRelayServers/write",
	"Microsoft.FluidRelay/fluidRelayServers/listKeys/action",
	"Microsoft.Authorization/roleAssignments/read",
	"Microsoft.Authorization/roleAssignments/write",
	"Microsoft.Authorization/roleAssignments/delete",
	"Microsoft.ManagedIdentity/userAssignedIdentities/read",
	"Microsoft.ManagedIdentity/userAssignedIdentities/write",
	"Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
	"Microsoft.KeyVault/vaults/read",
	"Microsoft.KeyVault/vaults/write",
	"Microsoft.KeyVault/locations/deletedVaults/purge/action",
	"Microsoft.Resources/tags/write",
	"Microsoft.Insights/eventtypes/management/values/read",
	// Data actions, from here on.
	"Microsoft.KeyVault/vaults/keys/read",
	"Microsoft.KeyVault/vaults/keys/create/action",
	"Microsoft.KeyVault/vaults/keys/wrap/action",
	"Microsoft.KeyVault/vaults/keys/sign/action",
	"Microsoft.KeyVault/vaults/keys/purge/action",
	"Microsoft.KeyVault/vaults/keyrotationpolicies/write",
	"Microsoft.KeyVault/vaults/secrets/getSecret/action",
}

const firstData = 14

var rights = map[string]string{
	//                                         relay auth identity vault tag log  keys ...
	"Owner":                     "yyy yyy yyy yyy y y  nnn nnn n",
	"Contributor":               "yyy ynn yyy yyy y y  nnn nnn n",
	"Reader":                    "ynn ynn ynn ynn n y  nnn nnn n",
	"User Access Administrator": "ynn yyy ynn ynn n y  nnn nnn n",
	"Role Based Access Control Administrator":  "ynn yyy ynn ynn n y  nnn nnn n",
	"Tag Contributor":                          "nnn ynn nnn nnn y n  nnn nnn n",
	"Monitoring Reader":                        "ynn ynn ynn ynn n y  nnn nnn n",
	"Managed Identity Contributor":             "nnn ynn yyn nnn n n  nnn nnn n",
	"Managed Identity Operator":                "nnn ynn yny nnn n n  nnn nnn n",
	"Key Vault Administrator":                  "nnn ynn nnn ynn n n  yyy yyy y",
	"Key Vault Contributor":                    "nnn ynn nnn yyn n n  nnn nnn n",
	"Key Vault Crypto Officer":                 "nnn ynn nnn ynn n n  yyy yyy n",
	"Key Vault Crypto Service Encryption User": "nnn nnn nnn nnn n n  yny nnn n",
	"Key Vault Crypto User":                    "nnn nnn nnn nnn n n  yny ynn n",
	"Key Vault Reader":                         "nnn ynn nnn ynn n n  ynn nnn n",
	"":                                         "nnn nnn nnn nnn n n  nnn nnn n", // who has none
}

// who × what × where: each role, given at the group, at all places.
func TestRights(t *testing.T) {
	if len(rights) != len(Roles())+1 {
		t.Fatalf("the table has %d rows, and there are %d roles", len(rights), len(Roles()))
	}
	s, p := openTest(t)
	for role, row := range rights {
		t.Run(strings.ReplaceAll(role, " ", ""), func(t *testing.T) {
			row = strings.ReplaceAll(row, " ", "")
			if len(row) != len(rightsOf) {
				t.Fatalf("the row has %d columns, want %d", len(row), len(rightsOf))
			}
			app, _, err := s.CreateApplication(t.Context(), p.Directory, "who")
			if err != nil {
				t.Fatal(err)
			}
			if role != "" {
				if err := s.Assign(t.Context(), app.ObjectID, role, testGroup); err != nil {
					t.Fatal(err)
				}
			}
			for n, action := range rightsOf {
				allowed := s.Allowed
				if n >= firstData {
					allowed = s.AllowedData
				}
				for where, counts := range map[string]bool{
					testGroup: true, strings.ToUpper(testKey): true, testVault: true,
					"/": false, testSub: false, testGroup + "2": false, testGroup + "2/providers/Microsoft.KeyVault/vaults/v": false,
				} {
					got, err := allowed(t.Context(), Caller{ObjectID: strings.ToUpper(app.ObjectID)}, action, where)
					if want := counts && row[n] == 'y'; err != nil || got != want {
						t.Errorf("%s at %s: got %t, %v, want %t", action, where, got, err, want)
					}
				}
			}
		})
	}
}

func TestAssignments(t *testing.T) {
	s, p := openTest(t)
	ctx := t.Context()
	reader, _ := FindRole("reader")
	owner, _ := FindRole("8E3AF657-A8FF-443C-A75C-2FE8C4BCB635")
	a := Assignment{Name: strings.ToUpper(uuid.NewString()), Role: reader.ID, ShownScope: testGroup + "/", Principal: strings.ToUpper(p.ObjectID), UpdatedBy: "admin"}
	put, created, err := s.PutAssignment(ctx, a)
	if err != nil || !created || put.Name != strings.ToLower(a.Name) || put.ShownScope != testGroup || put.PrincipalType != "ServicePrincipal" || put.CreatedBy != "admin" {
		t.Fatalf("got %+v, %t, %v", put, created, err)
	}
	if again, created, err := s.PutAssignment(ctx, a); err != nil || created || again != put {
		t.Errorf("the same again: got %+v, %t, %v", again, created, err)
	}
	changed := a
	changed.Description = "why"
	if got, created, err := s.PutAssignment(ctx, changed); err != nil || created || got.Description != "why" || !got.Created.Equal(put.Created) {
		t.Errorf("a description: got %+v, %t, %v", got, created, err)
	}
	for name, wrong := range map[string]struct {
		change func(*Assignment)
		want   error
	}{
		"OtherRole":       {func(a *Assignment) { a.Role = owner.ID }, ErrAssignmentFixed},
		"OtherScope":      {func(a *Assignment) { a.ShownScope = testSub }, ErrAssignmentFixed},
		"OtherPrincipal":  {func(a *Assignment) { a.Principal = uuid.NewString() }, ErrAssignmentFixed},
		"OtherName":       {func(a *Assignment) { a.Name = uuid.NewString() }, ErrAssignmentExists},
		"NoSuchPrincipal": {func(a *Assignment) { a.Name, a.Principal = uuid.NewString(), uuid.NewString() }, store.ErrNotFound},
		"BadScope":        {func(a *Assignment) { a.ShownScope = "/a/../b" }, errScope},
	} {
		b := a
		wrong.change(&b)
		if _, _, err := s.PutAssignment(ctx, b); !errors.Is(err, wrong.want) {
			t.Errorf("%s: got %v, want %v", name, err, wrong.want)
		}
	}
	// One whom another directory vouches for.
	foreign := Assignment{Name: uuid.NewString(), Role: reader.ID, ShownScope: testGroup, Principal: uuid.NewString(), PrincipalType: "User"}
	if _, created, err := s.PutAssignment(ctx, foreign); err != nil || !created {
		t.Errorf("a principal whose type is given: got %t, %v", created, err)
	}
	if err := s.DeleteAssignment(ctx, a.Name); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteAssignment(ctx, a.Name); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted twice: got %v", err)
	}
	if ok, _ := s.Allowed(ctx, Caller{ObjectID: p.ObjectID}, "x/read", testGroup); ok {
		t.Error("a deleted assignment still counts")
	}
}

func TestLastOwnerStays(t *testing.T) {
	s, p := openTest(t)
	other, _, err := s.CreateApplication(t.Context(), p.Directory, "other")
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{p.ObjectID, other.ObjectID} {
		if err := s.Assign(t.Context(), who, "Owner", testSub); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Assign(t.Context(), other.ObjectID, "Owner", testGroup); err != nil {
		t.Fatal(err)
	}
	all, err := s.Assignments(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("got %v, %v", all, err)
	}
	refused := 0
	for _, a := range all {
		switch err := s.DeleteAssignment(t.Context(), a.Name); {
		case errors.Is(err, ErrLastOwner):
			refused++
		case err != nil:
			t.Error(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d deletions were refused, want that of the last owner", refused)
	}
}

// What is made later under the name of something deleted is open to nobody new.
func TestDeleteAssignmentsWithin(t *testing.T) {
	s, p := openTest(t)
	for _, scope := range []string{testSub, testGroup, testVault, testGroup + "2"} {
		if err := s.Assign(t.Context(), p.ObjectID, "Reader", scope); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.DeleteAssignmentsWithin(t.Context(), strings.ToUpper(testGroup)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.Assignments(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("got %v, %v, want those of the subscription and of the other group", all, err)
	}
	for _, a := range all {
		if a.Within(testGroup) || !a.Within(testSub) || a.Reaches(testSub) != (a.Scope == testSub) {
			t.Errorf("left: %+v", a)
		}
	}
}
