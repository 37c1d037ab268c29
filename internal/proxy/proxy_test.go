package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/proxy"
)

// serve runs a proxy that leads service.test:443 to address.
func serve(t *testing.T, address string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := proxy.New(proxy.Config{Route: func(host, port string) (string, bool) {
		return address, host == "service.test" && port == "443"
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the proxy ended with %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func TestLeadsAndRefuses(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", r.Host, len(body))
	}))
	defer server.Close()
	at, _ := serve(t, server.Listener.Addr().String())
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	client := &http.Client{Transport: &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: at}),
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"},
	}}
	defer client.CloseIdleConnections()
	for host, want := range map[string]string{"service.test": "service.test 1000000", "SERVICE.test.": "SERVICE.test. 1000000"} {
		resp, err := client.Post("https://"+host+"/", "text/plain", strings.NewReader(strings.Repeat("x", 1e6)))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != want {
			t.Errorf("%s: got %q", host, got)
		}
	}
	for _, target := range []string{"https://other.test/", "https://service.test:8443/", "https://127.0.0.1/", "https://x.service.test/"} {
		if resp, err := client.Get(target); err == nil {
			resp.Body.Close()
			t.Errorf("%s was led on", target)
		} else if !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("%s: got %v, want it forbidden", target, err)
		}
	}
	plain := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at})}}
	defer plain.CloseIdleConnections()
	resp, err := plain.Get("http://service.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("without TLS: got %d, want 405", resp.StatusCode)
	}
}

// connect asks for a tunnel by hand and returns the status.
func connect(t *testing.T, at, target string) (net.Conn, int) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return c, resp.StatusCode
}

// Each side may end its half first; stopping the proxy ends what is left.
func TestTunnelsEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // answers when it has read all
				body, _ := io.ReadAll(c)
				fmt.Fprintf(c, "got %s", body)
				c.Close()
			}()
		}
	}()
	at, stop := serve(t, l.Addr().String())
	first, status := connect(t, at, "service.test:443")
	if status != 200 {
		t.Fatalf("got %d", status)
	}
	fmt.Fprint(first, "hello")
	_ = first.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(first); string(got) != "got hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	open, _ := connect(t, at, "service.test:443")
	stop()
	if _, err := io.ReadAll(open); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the open tunnel: %v", err)
	}
}

func TestServerIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	at, _ := serve(t, address)
	if _, status := connect(t, at, "service.test:443"); status != http.StatusBadGateway {
		t.Errorf("got %d, want 502", status)
	}
	if _, status := connect(t, at, "service.test"); status != http.StatusBadRequest {
		t.Errorf("without a port: got %d, want 400", status)
	}
}
