package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// SmallDisk mounts a file system of so many bytes, such as 48m, which is in memory, until the
// end of the test. It skips the test where that is not allowed.
func SmallDisk(t testing.TB, size string) string {
	t.Helper()
	if os.Getenv(Variable) == "" {
		t.Skip("needs PostgreSQL's server programs: run 'make postgres'")
	}
	dir, err := os.MkdirTemp("", "tidelock-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=1777,size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a disk that is full is tried where file systems can be mounted, as by root: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return dir
}

// NewDatabaseOn makes an empty database whose data is on a SmallDisk, and its write-ahead log
// elsewhere. The server is killed at the end of the test, for it holds the disk.
func (s *Server) NewDatabaseOn(t testing.TB, disk string) string {
	t.Helper()
	space := filepath.Join(disk, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := giveAway(space); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	s.Exec(t, "CREATE TABLESPACE small LOCATION '"+space+"'")
	s.Exec(t, "CREATE DATABASE small TABLESPACE small")
	return s.URL("small")
}
