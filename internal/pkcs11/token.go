//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

// Config says which token, and how to log in to it.
type Config struct {
	Module  string // path of the PKCS#11 library
	Label   string // of the token
	PINFile string // the user PIN, one line; for its owner alone
}

// Token is an open token. It is safe for concurrent use.
type Token struct {
	ctx  *p11.Ctx
	slot uint
	pin  string
	bare bool // it has CKM_RSA_X_509

	sessions chan p11.SessionHandle // idle ones
	login    sync.Mutex             // held by a login

	using  sync.RWMutex // held by operations to read, by Close to write
	closed bool
}

// maxSessions bounds how many operations are in the token at once.
const maxSessions = 16

// Open loads the module and logs in.
func Open(c Config) (_ *Token, err error) {
	pin, err := readPIN(c.PINFile)
	if err != nil {
		return nil, err
	}
	ctx := p11.New(c.Module)
	if ctx == nil {
		return nil, fmt.Errorf("PKCS#11 module %s: it cannot be loaded; name the library of your token", c.Module)
	}
	t := &Token{ctx: ctx, pin: pin, sessions: make(chan p11.SessionHandle, maxSessions)}
	if err := ctx.Initialize(); err != nil {
		ctx.Destroy()
		return nil, fmt.Errorf("PKCS#11 module %s: %w", c.Module, err)
	}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if t.slot, err = findSlot(ctx, c.Label); err != nil {
		return nil, fmt.Errorf("PKCS#11 module %s: %w", c.Module, err)
	}
	if t.bare, err = hasBareRSA(ctx, t.slot); err != nil {
		return nil, fmt.Errorf("PKCS#11 token %s: %w", c.Label, err)
	}
	session, err := t.open()
	if err != nil {
		return nil, fmt.Errorf("PKCS#11 token %s: %w", c.Label, err)
	}
	t.sessions <- session
	return t, nil
}

// Close waits for operations under way, logs out and unloads the module.
func (t *Token) Close() {
	t.using.Lock()
	defer t.using.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	_ = t.ctx.CloseAllSessions(t.slot) // as good as Finalize, which is next
	_ = t.ctx.Finalize()
	t.ctx.Destroy()
}

func readPIN(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("PIN of the PKCS#11 token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("PIN file %s can be read by others: chmod 600 it", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("PIN of the PKCS#11 token: %w", err)
	}
	pin := strings.TrimRight(string(raw), "\r\n")
	if pin == "" || strings.ContainsAny(pin, "\r\n") {
		return "", fmt.Errorf("PIN file %s does not hold one line", path)
	}
	return pin, nil
}

func findSlot(ctx *p11.Ctx, label string) (uint, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	found, n := uint(0), 0
	var labels []string
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil {
			return 0, err
		}
		if info.Label == label {
			found = slot
			n++
		}
		labels = append(labels, fmt.Sprintf("%q", info.Label))
	}
	switch n {
	case 0:
		return 0, fmt.Errorf("no token is labelled %q; there are %s", label, strings.Join(labels, ", "))
	case 1:
		return found, nil
	}
	return 0, fmt.Errorf("%d tokens are labelled %q", n, label)
}

func hasBareRSA(ctx *p11.Ctx, slot uint) (bool, error) {
	all, err := ctx.GetMechanismList(slot)
	if err != nil {
		return false, err
	}
	for _, m := range all {
		if m.Mechanism == p11.CKM_RSA_X_509 {
			return true, nil
		}
	}
	return false, nil
}

// open makes a session that is logged in; the login is one for all sessions.
func (t *Token) open() (p11.SessionHandle, error) {
	session, err := t.ctx.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return 0, fmt.Errorf("open a session: %w", err)
	}
	t.login.Lock()
	defer t.login.Unlock()
	if err := t.ctx.Login(session, p11.CKU_USER, t.pin); err != nil && !is(err, p11.CKR_USER_ALREADY_LOGGED_IN) {
		_ = t.ctx.CloseSession(session) // the login's error is the one to tell
		return 0, fmt.Errorf("log in: %w", err)
	}
	return session, nil
}

// with runs f in a session. A session that was lost, as when a network token was
// restarted, is replaced, and f is tried once more.
func (t *Token) with(f func(p11.SessionHandle) error) error {
	t.using.RLock()
	defer t.using.RUnlock()
	if t.closed {
		return errors.New("the token is closed")
	}
	for again := false; ; again = true {
		session, err := t.session()
		if err != nil {
			return err
		}
		err = f(session)
		if !lost(err) {
			t.release(session)
			return err
		}
		_ = t.ctx.CloseSession(session) // it is lost already
		if again {
			return err
		}
	}
}

func (t *Token) session() (p11.SessionHandle, error) {
	select {
	case session := <-t.sessions:
		return session, nil
	default:
		return t.open()
	}
}

func (t *Token) release(session p11.SessionHandle) {
	select {
	case t.sessions <- session:
	default: // there are enough
		_ = t.ctx.CloseSession(session)
	}
}

func is(err error, codes ...uint) bool {
	var e p11.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if uint(e) == code {
			return true
		}
	}
	return false
}

func lost(err error) bool {
	return is(err, p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_DEVICE_REMOVED)
}

// failed says that the token did not work, as against: it did not take a value.
func failed(err error) bool {
	return lost(err) || is(err, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY, p11.CKR_TOKEN_NOT_PRESENT,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_OPERATION_ACTIVE, p11.CKR_FUNCTION_NOT_SUPPORTED,
		p11.CKR_MECHANISM_INVALID, p11.CKR_KEY_FUNCTION_NOT_PERMITTED)
}

// find returns the key of an id and class.
func (t *Token) find(session p11.SessionHandle, id string, class uint) (p11.ObjectHandle, error) {
	found, err := t.all(session, id, class)
	if err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("the token has %d keys with the id %s, not one", len(found), id)
	}
	return found[0], nil
}

func (t *Token) all(session p11.SessionHandle, id string, class uint) ([]p11.ObjectHandle, error) {
	err := t.ctx.FindObjectsInit(session, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_ID, []byte(id)), p11.NewAttribute(p11.CKA_TOKEN, true),
	})
	if err != nil {
		return nil, err
	}
	const most = 4
	found, _, err := t.ctx.FindObjects(session, most)
	return found, errors.Join(err, t.ctx.FindObjectsFinal(session))
}

// Destroy removes a key for good; one that is not there is fine.
func (t *Token) Destroy(id string) error {
	return t.with(func(session p11.SessionHandle) error {
		for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_SECRET_KEY} {
			found, err := t.all(session, id, class)
			if err != nil {
				return err
			}
			for _, key := range found {
				if err := t.ctx.DestroyObject(session, key); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Random is made by the token.
func (t *Token) Random(n int) (b []byte, err error) {
	err = t.with(func(session p11.SessionHandle) error {
		b, err = t.ctx.GenerateRandom(session, n)
		return err
	})
	return bytes.Clone(b), err
}
