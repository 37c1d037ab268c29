package relay

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
)

// wrap is a call as drivers send it.
func wrap(method, path string, headers map[string]string, body string) *http.Request {
	form := "method=" + url.QueryEscape(method)
	for name, value := range headers {
		form += "&header=" + url.QueryEscape(name+": "+value)
	}
	if body != "" {
		form += "&body=" + url.QueryEscape(body)
	}
	return wrapped(path, form)
}

func wrapped(path, form string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded;restless")
	return r
}

func TestRestLessUnwraps(t *testing.T) {
	r := wrapped("/x?a=b", "method=put&header=Authorization%3A+Basic+a.b%2Bc&header=X-A:%201&header=x-a%3A+2%3A+3&body=%7B%22k%22%3A%22a+b%2B%E2%82%AC%26%3D%22%7D")
	r.Header.Set("Authorization", "Basic of the wrapping")
	r.Header.Set("User-Agent", "kept")
	if !isRestLess(r) {
		t.Fatal("not taken for a wrapped call")
	}
	if err := unwrapRestLess(r); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if want := `{"k":"a b+€&="}`; err != nil || string(body) != want {
		t.Errorf("body %q, %v; want %q", body, err, want)
	}
	for name, want := range map[string][]string{
		"Authorization": {"Basic a.b+c"},
		"X-A":           {"1", "2: 3"},
		"User-Agent":    {"kept"},
		"Content-Type":  {"application/json"},
	} {
		if got := r.Header[name]; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("header %s: %q, want %q", name, got, want)
		}
	}
	if r.Method != http.MethodPut || r.URL.String() != "/x?a=b" {
		t.Errorf("call %s %s", r.Method, r.URL)
	}
}

func TestRestLessIsToldByItsType(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/x-www-form-urlencoded;restless":                true,
		"application/x-www-form-urlencoded; restless":               true,
		"Application/X-WWW-Form-Urlencoded; charset=utf-8;RestLess": true,
		"application/x-www-form-urlencoded":                         false,
		"application/json;restless":                                 false,
		"":                                                          false,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Content-Type", contentType)
		if got := isRestLess(r); got != want {
			t.Errorf("%q: %t, want %t", contentType, got, want)
		}
		r.Method = http.MethodPut
		if isRestLess(r) {
			t.Errorf("%q: a PUT is taken for a wrapped call", contentType)
		}
	}
}

func TestRestLessRefuses(t *testing.T) {
	const method = "Invalid RestLess Method Property"
	for _, test := range []struct {
		name, form, want string
	}{
		{"Empty", "", method},
		{"NoMethod", "body=%7B%7D", method},
		{"TwoMethods", "method=GET&method=POST", method},
		{"EmptyMethod", "method=", method},
		{"UnknownMethod", "method=CONNECT", method},
		{"MethodWithSpace", "method=GET+", method},
		{"UnknownField", "method=GET&headers=x", "Invalid RestLess form"},
		{"FieldWithoutValue", "method=GET&header", "Invalid RestLess form"},
		{"EmptyField", "method=GET&&header=A%3A+b", "Invalid RestLess form"},
		{"BadEscape", "method=GE%5", "Invalid RestLess form"},
		{"BadEscapeInName", "met%zzhod=GET", "Invalid RestLess form"},
		{"HeaderWithoutColon", "method=GET&header=A", "Invalid RestLess header"},
		{"HeaderWithoutSpace", "method=GET&header=A:b", "Invalid RestLess header"},
		{"HeaderWithoutName", "method=GET&header=%3A+b", "Invalid RestLess header"},
		{"HeaderNameWithSpace", "method=GET&header=A+B%3A+c", "Invalid RestLess header"},
		{"HeaderInjection", "method=GET&header=A%3A+b%0D%0ASet-Cookie%3A+c", "Invalid RestLess header"},
		{"FieldAfterBody", "method=POST&body=%7B%7D&header=A%3A+b", "Invalid RestLess form"},
		{"BadEscapeInBody", "method=POST&body=%7B%2", "Invalid RestLess form"},
		{"NoHexInBody", "method=POST&body=%7Bx%gg", "Invalid RestLess form"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := wrapped("/", test.form)
			err := unwrapRestLess(r)
			if err == nil {
				_, err = readBody(r, smallBody)
			}
			var plain *restError
			if !errors.As(err, &plain) || plain.status != http.StatusBadRequest || !strings.Contains(plain.message, test.want) {
				t.Errorf("got %v, want 400 with %q", err, test.want)
			}
		})
	}
	t.Run("FieldsOverTheLimit", func(t *testing.T) {
		var large *http.MaxBytesError
		if err := unwrapRestLess(wrapped("/", "method=GET&header=A%3A+"+strings.Repeat("b", restLessBytes))); !errors.As(err, &large) {
			t.Errorf("got %v, want http.MaxBytesError", err)
		}
	})
	t.Run("BodyOverTheLimit", func(t *testing.T) {
		read := &countingReader{r: iotest.OneByteReader(strings.NewReader("method=POST&body=" + strings.Repeat("%20", 10*smallBody)))}
		r := wrapped("/", "")
		r.Body = io.NopCloser(read)
		if err := unwrapRestLess(r); err != nil {
			t.Fatal(err)
		}
		var large *http.MaxBytesError
		if _, err := readBody(r, smallBody); !errors.As(err, &large) {
			t.Errorf("got %v, want http.MaxBytesError", err)
		}
		if most := 3*smallBody + 8192; read.n > most {
			t.Errorf("%d bytes were read of a body over the limit, want at most %d", read.n, most)
		}
	})
	t.Run("Cut", func(t *testing.T) {
		r := wrapped("/", "")
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader("method=POST&body=%7B"), iotest.ErrReader(io.ErrUnexpectedEOF)))
		if err := unwrapRestLess(r); err != nil {
			t.Fatal(err)
		}
		if _, err := readBody(r, smallBody); err == nil {
			t.Error("a cut body was taken for a whole one")
		}
	})
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// What is wrapped unwraps, however it arrives, to what url.ParseQuery finds in it.
func FuzzRestLess(f *testing.F) {
	for _, seed := range []string{
		"method=GET&header=Authorization%3A+Basic+x",
		"method=POST&header=A%3A+b&header=A%3A+c&body=%7B%22a%22%3A%22%E2%82%AC+%2B%22%7D",
		"method=POST&body=",
		"body=x&method=GET",
		"method=POST&body=%",
		"&&==&method",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, form string) {
		r := wrapped("/", "")
		r.Body = io.NopCloser(iotest.HalfReader(strings.NewReader(form)))
		if unwrapRestLess(r) != nil {
			return
		}
		body, err := readBody(r, smallBody)
		if err != nil {
			return
		}
		fields, err := url.ParseQuery(strings.ReplaceAll(form, ";", "%3B"))
		if err != nil {
			t.Fatalf("accepted %q: %v", form, err)
		}
		if got := strings.ToUpper(fields.Get("method")); got != r.Method {
			t.Errorf("method %q, want %q", r.Method, got)
		}
		if string(body) != fields.Get("body") {
			t.Errorf("body %q, want %q", body, fields.Get("body"))
		}
		for _, header := range fields["header"] {
			name, value, _ := strings.Cut(header, ": ")
			if got := strings.Join(r.Header.Values(name), "|"); !strings.Contains(got, value) {
				t.Errorf("header %s: %q, want %q in it", name, got, value)
			}
		}
	})
}

func BenchmarkRestLessBody(b *testing.B) {
	form := "method=POST&body=" + url.QueryEscape(strings.Repeat(`{"path":"header","type":"blob","value":{"content":"lorem ipsum dolor sit amet"}},`, 10_000))
	b.SetBytes(int64(len(form)))
	for b.Loop() {
		r := wrapped("/", form)
		if err := unwrapRestLess(r); err != nil {
			b.Fatal(err)
		}
		if _, err := readBody(r, Limits{}.withDefaults().uploadBody()); err != nil {
			b.Fatal(err)
		}
	}
}
