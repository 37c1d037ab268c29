package custody

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

func TestNewVersionIsAdoptedWhenTheURLNamesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r, second, fixed := f.resource(versionless), f.resource(versionless), f.resource(pinned)
		d := f.document(r)
		o := mustSeal(t, d, "a", "text")
		w := d.NewWriter(store.Claim{Term: 1}, Tail{})
		time.Sleep(5 * time.Minute)
		f.vault.addVersion(version2)
		time.Sleep(VersionEvery + time.Minute)
		rec, _, err := f.readRecord(t.Context(), r)
		if err != nil || rec.KeyID != keyURL(version2).String() || rec.KeyURL != keyURL("").String() {
			t.Errorf("record: %+v, %v; want version 2, URL without version", rec, err)
		}
		for id, want := range map[string]string{"first": f.Status(r).KeyID, "second": f.Status(second).KeyID} {
			if want != keyURL(version2).String() {
				t.Errorf("%s is under %s, want version 2", id, want)
			}
		}
		if s := f.Status(fixed); s.KeyID != keyURL(version1).String() {
			t.Errorf("the pinned resource moved to %s", s.KeyID)
		}
		if _, err := w.Seal(1, 1, nil); err != nil {
			t.Errorf("seal after rotation: %v", err)
		}
		mustOpen(t, d, "a", o, "text")
		f.vault.change(version1, func(k *keystore.Key) { k.Enabled = false })
		time.Sleep(time.Hour)
		if d.Err() != nil {
			t.Errorf("the document ended with the old version: %v", d.Err())
		}
	})
}

func TestUnfitNewVersionIsNotAdopted(t *testing.T) {
	for name, spoil := range map[string]func(f *fakeVault){
		"Disabled": func(f *fakeVault) { f.change(version2, func(k *keystore.Key) { k.Enabled = false }) },
		"Expired": func(f *fakeVault) {
			f.change(version2, func(k *keystore.Key) { k.Expires = time.Now().Add(-time.Hour) })
		},
		"Elliptic":  func(f *fakeVault) { f.change(version2, func(k *keystore.Key) { k.Type = "EC" }) },
		"NoUnwrap":  func(f *fakeVault) { f.set(opUnwrap+" "+version2, errDenied) },
		"DiskFault": func(f *fakeVault) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				r := f.resource(versionless)
				d := f.document(r)
				time.Sleep(5 * time.Minute)
				f.vault.addVersion(version2)
				spoil(f.vault)
				if name == "DiskFault" {
					f.store.fail(errors.New("disk fault"))
				}
				time.Sleep(VersionEvery + time.Minute)
				if s := f.Status(r); s.KeyID != keyURL(version1).String() || d.Err() != nil || warns(s, warnNewUnfit) != (name != "DiskFault") {
					t.Errorf("status = %+v, document %v; want version 1, and a warning if it is the new version's fault", s, d.Err())
				}
				f.vault.addVersion(version2)
				f.vault.set(opUnwrap+" "+version2, nil)
				time.Sleep(VersionEvery + time.Minute)
				if s := f.Status(r); s.KeyID != keyURL(version2).String() {
					t.Errorf("once it was repaired: under %s, want version 2", s.KeyID)
				}
			})
		})
	}
}
