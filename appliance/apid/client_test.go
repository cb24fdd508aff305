package apid_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// client is a bare HTTP client with a certificate. It does not check the
// server's: that is the operator's command's affair.
func client(t *testing.T, certs ...tls.Certificate) *http.Client {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// ask makes a call and gives status, body and the code of a refusal.
func ask(t *testing.T, c *http.Client, verb, url string, body []byte, header ...string) (int, []byte, string) {
	t.Helper()
	r, err := http.NewRequest(verb, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == nil {
		r.Body = nil
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var refusal manage.Refusal
	if res.StatusCode == http.StatusOK {
		return res.StatusCode, data, ""
	}
	if err := json.Unmarshal(data, &refusal); err != nil || refusal.Error == nil || refusal.Error.Code == "" || refusal.Error.Text == "" {
		t.Fatalf("%s %s: status %d with a body that is no refusal: %s", verb, url, res.StatusCode, data)
	}
	return res.StatusCode, data, refusal.Error.Code
}

// ready starts a box and waits until it can be asked.
func ready(t *testing.T, opts apidtest.Options) *apidtest.Box {
	t.Helper()
	b := apidtest.New(t, opts)
	b.Marks.Next()
	return b
}

// entries reads the record, after its chain was verified.
func entries(t *testing.T, b *apidtest.Box) []audit.Entry {
	t.Helper()
	if _, _, err := audit.Verify(b.AuditDir); err != nil {
		t.Fatalf("the record's chain: %v", err)
	}
	var all []audit.Entry
	for _, line := range bytes.Split(bytes.TrimSpace(readAll(t, b.AuditDir)), []byte("\n")) {
		var e audit.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func roles() []apid.Role { return []apid.Role{apid.Owner, apid.Hosting, apid.Monitor} }
