package entra

import (
	"context"
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

// meanwhile is a store on which something happens just before each write.
type meanwhile struct {
	store.Store
	happens func([]store.RowWrite) error
}

func (m *meanwhile) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if err := m.happens(writes); err != nil {
		return err
	}
	return m.Store.WriteRows(ctx, writes)
}

// Of two owners who are deleted at once, each on another node, one stays.
func TestLastOwnerStaysOfSeveralNodes(t *testing.T) {
	first, p := openTest(t)
	other, _, err := first.CreateApplication(t.Context(), p.Directory, "other")
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{p.ObjectID, other.ObjectID} {
		if err := first.Assign(t.Context(), who, "Owner", testSub); err != nil {
			t.Fatal(err)
		}
	}
	all, err := first.Assignments(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("got %v, %v", all, err)
	}
	second := *first // another node: the same rows, and no lock in common
	done := false
	first.store = &meanwhile{first.store, func([]store.RowWrite) error {
		if done {
			return nil
		}
		done = true
		return second.DeleteAssignment(t.Context(), all[1].Name)
	}}
	if err := first.DeleteAssignment(t.Context(), all[0].Name); !errors.Is(err, ErrLastOwner) {
		t.Errorf("deleting the other one meanwhile: got %v, want ErrLastOwner", err)
	}
	if left, err := second.Assignments(t.Context()); err != nil || len(left) != 1 || left[0].Name != all[0].Name {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A directory, its administrator and what he owns are made in one write.
func TestFoundIsAllOrNothing(t *testing.T) {
	s, _ := openTest(t)
	good := s.store
	none := func(DirectoryID) (store.RowWrite, error) {
		return store.RowWrite{RowKey: store.RowKey{Table: "other"}}, nil
	}
	writes := 0
	s.store = &meanwhile{good, func(w []store.RowWrite) error { writes++; return errors.New("the power is gone") }}
	if _, err := s.Found(t.Context(), "fabrikam", testSub, none); err == nil {
		t.Fatal("it was founded without a store")
	}
	if all, err := s.Directories(t.Context()); err != nil || len(all) != 1 || writes != 1 {
		t.Errorf("after %d writes that failed there are %v, %v", writes, all, err)
	}
	s.store = good
	made, err := s.Found(t.Context(), "fabrikam", testSub, none)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := s.Find(t.Context(), made.Directory.ID, made.Administrator.ClientID)
	if err != nil || !admin.Administrator || len(admin.Secrets) != 1 || made.Secret == "" {
		t.Errorf("the administrator is %+v, %v", admin, err)
	}
	caller := Caller{ObjectID: made.Administrator.ObjectID, Directory: made.Directory.ID}
	if ok, err := s.Allowed(t.Context(), caller, "Microsoft.FluidRelay/fluidRelayServers/write", testGroup); err != nil || !ok {
		t.Errorf("he may write in his subscription: %t, %v", ok, err)
	}
	if err := s.Assign(t.Context(), made.Administrator.ObjectID, "Owner", testSub); err != nil { // it is there already, and the same
		t.Error(err)
	}
	if all, err := s.Assignments(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("assignments: %v, %v", all, err)
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
