package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Fluid drivers send every REST call as a POST of a form, which spares browsers the
// preflight: the fields method and header (repeated, "Name: value") hold what the
// call really is, the field body its body. Source: RestLessClient and
// RestLessServer of the Fluid services packages.
//
// The drivers write body last, and here it must be: so everything needed to refuse
// a call is known before its body, by far the largest part, is read.

// restLessBytes bounds all fields before the body, as sent.
const restLessBytes = 64 << 10

var (
	errRestLessMethod = badRequestf("Invalid RestLess Method Property")
	errRestLessForm   = badRequestf("Invalid RestLess form: it must be method, header fields and, last, body, each URL-encoded.")
	errRestLessHeader = badRequestf("Invalid RestLess header: it must be a name, a colon, a space and a value.")
)

// isRestLess says whether r is a wrapped call.
func isRestLess(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	kind, parameters, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(strings.ToLower(kind)) == "application/x-www-form-urlencoded" &&
		strings.Contains(strings.ToLower(parameters), "restless")
}

// unwrapRestLess makes r the call it wraps: method, headers, and a body that
// decodes as it is read. The error is a *restError.
func unwrapRestLess(r *http.Request) error {
	in := bufio.NewReader(r.Body)
	method, wrapped := "", http.Header{}
	body := io.Reader(http.NoBody)
	for left := restLessBytes; ; {
		key, end, err := readUntil(in, "=&", &left)
		if err != nil {
			return err
		}
		if end != '=' {
			if end != 0 || key != "" {
				return errRestLessForm
			}
			break
		}
		if key == "body" {
			body = &formValue{in: in}
			break
		}
		field, end, err := readUntil(in, "&", &left)
		if err != nil {
			return err
		}
		switch key {
		case "method":
			if method != "" {
				return errRestLessMethod
			}
			method = strings.ToUpper(field)
		case "header":
			name, text, ok := strings.Cut(field, ": ")
			if !ok || !isToken(name) || strings.ContainsAny(text, "\r\n\x00") {
				return errRestLessHeader
			}
			wrapped.Add(name, text)
		default:
			return errRestLessForm
		}
		if end == 0 {
			break
		}
	}
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
	default:
		return errRestLessMethod
	}
	if wrapped.Get("Content-Type") == "" {
		wrapped.Set("Content-Type", "application/json")
	}
	for name, texts := range wrapped {
		r.Header[name] = texts
	}
	r.Method = method
	r.Body = unwrappedBody{body, r.Body, r.ContentLength}
	r.ContentLength = -1
	return nil
}

// unwrappedBody is the body of the call that a form wraps; sent is the form's length,
// -1 if it was not announced.
type unwrappedBody struct {
	io.Reader
	io.Closer
	sent int64
}

// readUntil reads a URL-encoded piece up to one of the bytes in ends, which it
// takes and returns; 0 at the end of the form. left is what may still be read.
func readUntil(in *bufio.Reader, ends string, left *int) (piece string, end byte, err error) {
	var b []byte
	for {
		c, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", 0, badRequestf("The request body could not be read to its end.")
		}
		if *left--; *left < 0 {
			return "", 0, &http.MaxBytesError{Limit: restLessBytes}
		}
		if strings.IndexByte(ends, c) >= 0 {
			end = c
			break
		}
		b = append(b, c)
	}
	piece, err = url.QueryUnescape(string(b))
	if err != nil {
		return "", 0, errRestLessForm
	}
	return piece, end, nil
}

// formValue decodes the last value of a form as it is read.
type formValue struct {
	in  *bufio.Reader
	err error
}

func (v *formValue) Read(p []byte) (n int, err error) {
	for n < len(p) && v.err == nil {
		// What is buffered, and at least one byte.
		raw, err := v.in.Peek(max(1, v.in.Buffered()))
		if len(raw) == 0 {
			v.err = err
			break
		}
		plain := raw[:min(len(raw), len(p)-n)]
		if i := bytes.IndexAny(plain, "%+&"); i >= 0 {
			plain = plain[:i]
		}
		if len(plain) > 0 {
			n += copy(p[n:], plain)
			v.discard(len(plain))
			continue
		}
		switch raw[0] {
		case '+':
			p[n] = ' '
			n++
			v.discard(1)
		case '%':
			code, err := v.in.Peek(3)
			if err != nil {
				v.err = errRestLessForm
				break
			}
			hi, lo := fromHex(code[1]), fromHex(code[2])
			if hi > 15 || lo > 15 {
				v.err = errRestLessForm
				break
			}
			p[n] = hi<<4 | lo
			n++
			v.discard(3)
		default: // another field
			v.err = errRestLessForm
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, v.err
}

// discard drops bytes that were peeked at.
func (v *formValue) discard(n int) {
	if _, err := v.in.Discard(n); err != nil {
		v.err = err
	}
}

// fromHex returns the value of a hexadecimal digit, or 255.
func fromHex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// isToken says whether s can be the name of a header (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	})
}
