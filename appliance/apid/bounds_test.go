package apid_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func parseRequest(t *testing.T, text string) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func dial(t *testing.T, b *apidtest.Box, role apid.Role) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", b.Address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{b.Certificate(role)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestSlowBody: a caller that sends its argument byte by byte is cut off, and
// the box answers others meanwhile.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	b := ready(t, apidtest.Options{})
	conn := dial(t, b, apid.Hosting)
	if _, err := fmt.Fprintf(conn, "POST /v1/update/start HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := ask(t, client(t, b.Certificate(apid.Hosting)), "POST", "https://"+b.Address+"/v1/update/start", nil); status != 200 {
		t.Errorf("another caller meanwhile: %d", status)
	}
	begun := time.Now()
	if err := conn.SetReadDeadline(begun.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if took := time.Since(begun); err != nil || took > 30*time.Second || !strings.Contains(string(answer), manage.CodeBadRequest) {
		t.Errorf("after %v: %q, %v", took, answer, err)
	}
	if n := len(b.Behind.Calls()); n != 1 {
		t.Errorf("%d acts, want one", n)
	}
}

// TestSlowHeader: a caller that never ends its header is cut off.
func TestSlowHeader(t *testing.T) {
	t.Parallel()
	b := ready(t, apidtest.Options{})
	conn := dial(t, b, apid.Hosting)
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nX: "); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("not cut off: %v", err)
	}
}

// TestLongHeader: headers are bounded.
func TestLongHeader(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Monitor))
	r, err := http.NewRequest("GET", "https://"+b.Address+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	res, err := c.Do(r)
	if err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s", res.Status)
		}
	}
}

// TestConnections: one address gets no more than its share.
func TestConnections(t *testing.T) {
	b := ready(t, apidtest.Options{})
	for range 16 {
		conn, err := net.Dial("tcp", b.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	over, err := net.Dial("tcp", b.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	_ = over.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := over.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
		t.Errorf("one connection too many is not closed: %d, %v", n, err)
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// TestCallRate: one certificate does not get more than its rate; others do.
func TestCallRate(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Monitor))
	limited := 0
	for range 80 {
		if status, _, _ := ask(t, c, "GET", "https://"+b.Address+"/v1/audit/head", nil); status == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited == 0 {
		t.Error("80 calls at once were all answered")
	}
	if status, _, _ := ask(t, client(t, b.Certificate(apid.Monitor)), "GET", "https://"+b.Address+"/v1/audit/head", nil); status != 200 {
		t.Errorf("another certificate: %d", status)
	}
	entries(t, b)
}

// TestFlood: handshakes of strangers cannot wash the record away.
func TestFlood(t *testing.T) {
	b := ready(t, apidtest.Options{})
	for range 39 {
		if res, err := client(t).Get("https://" + b.Address + "/v1/status"); err == nil {
			res.Body.Close()
			t.Fatal("got in")
		}
	}
	if n := len(entries(t, b)); n < 20 || n > 34 {
		t.Errorf("%d entries for 39 strangers", n)
	}
}

// TestOneActAtATime: a second act is refused while one is under way.
func TestOneActAtATime(t *testing.T) {
	b := ready(t, apidtest.Options{})
	entered, release := make(chan struct{}), make(chan struct{})
	b.Behind.Set(func(s *apidtest.Behind) { s.Wait = func() { close(entered); <-release } })
	first := make(chan int, 1)
	go func() {
		status, _, _ := ask(t, client(t, b.Certificate(apid.Hosting)), "POST", "https://"+b.Address+"/v1/update/start", nil)
		first <- status
	}()
	<-entered
	b.Behind.Set(func(s *apidtest.Behind) { s.Wait = nil })
	if status, _, code := ask(t, client(t, b.Certificate(apid.Owner)), "POST", "https://"+b.Address+"/v1/power/off", nil); status != 429 || code != manage.CodeTooMany {
		t.Errorf("second act: %d %s", status, code)
	}
	close(release)
	if status := <-first; status != 200 {
		t.Errorf("first act: %d", status)
	}
}

// TestLargestConfiguration: a configuration of the greatest allowed size passes,
// one byte more does not.
func TestLargestConfiguration(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Owner))
	const largest = config.MaxSize/3*4 + 64<<10
	body := append([]byte("{"), bytes.Repeat([]byte(" "), largest-1)...)
	if status, answer, _ := ask(t, c, "POST", "https://"+b.Address+"/v1/config", body); status != 200 {
		t.Errorf("the largest: %d %s", status, answer)
	}
	if status, _, code := ask(t, c, "POST", "https://"+b.Address+"/v1/config", append(body, ' ')); status != 413 || code != manage.CodeTooLarge {
		t.Errorf("one byte more: %d %s", status, code)
	}
	if n := len(b.Behind.Calls()); n != 1 {
		t.Errorf("%d configurations were handed on", n)
	}
}

// TestUnannouncedLength: a body that does not say its length is bounded, too.
func TestUnannouncedLength(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Hosting))
	r, err := http.NewRequest("POST", "https://"+b.Address+"/v1/update/start", io.MultiReader(strings.NewReader("{"), strings.NewReader(strings.Repeat(" ", 1<<20))))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge || len(b.Behind.Calls()) > 0 {
		t.Errorf("%s", res.Status)
	}
}
