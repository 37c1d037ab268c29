package pgtest

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// process is a server that runs.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // once ended
}

// command is a program that runs in a directory of its own, as the user that may run servers:
// PostgreSQL's refuse to run as root.
func command(dir, path string, args ...string) *exec.Cmd {
	if os.Geteuid() == 0 {
		args = append([]string{"--reuid=postgres", "--regid=postgres", "--init-groups", "--", path}, args...)
		path = "setpriv"
	}
	c := exec.Command(path, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	return c
}

// giveAway makes the server's user the owner of a file or directory.
func giveAway(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// spawn starts c, which is killed when this process ends, however it ends.
func spawn(c *exec.Cmd) (*process, error) {
	p := &process{cmd: c, ended: make(chan struct{})}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		c.Args = append([]string{c.Args[0], "--pdeathsig=KILL"}, c.Args[1:]...) // setpriv's: a change of user takes the kernel's away
	} else {
		c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread that started it ends
		defer runtime.UnlockOSThread()
		err := c.Start()
		started <- err
		if err == nil {
			p.err = c.Wait()
			close(p.ended)
		}
	}()
	return p, <-started
}

// kill ends the server and the processes it made.
func (p *process) kill() {
	killTree(p.cmd.Process.Pid)
	<-p.ended
}

// killTree ends a process and its children, all of which may have ended by themselves.
func killTree(pid int) {
	// Stopped, it makes no more of them: one that was missed waits for its client's first
	// words, for a minute, and holds the memory that the next server needs.
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	children := childrenOf(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
}

func childrenOf(parent int) (children []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // of a fixed pattern
	for _, file := range stats {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …; the name may hold anything.
		head, tail, _ := strings.Cut(string(raw), " ")
		fields := strings.Fields(tail[strings.LastIndex(tail, ")")+1:])
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(head); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children
}
