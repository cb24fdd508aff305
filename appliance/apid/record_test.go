package apid_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// TestRecord: an act has an entry before and after; without a record nothing is
// done, and the state can still be seen.
func TestRecord(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Owner))
	ask(t, c, "POST", "https://"+b.Address+"/v1/power/reboot", nil)
	all := entries(t, b)
	if len(all) != 2 || all[0].Outcome != "asked" || all[1].Outcome != "done" || all[1].Actor != "owner/A owner person" || all[1].Action != "POST /v1/power/reboot" {
		t.Fatalf("record %+v", all)
	}
	_, body, _ := ask(t, c, "GET", "https://"+b.Address+"/v1/audit/head", nil)
	if !strings.Contains(string(body), `"number":2`) {
		t.Errorf("head %s", body)
	}
}

func TestUnwritableRecord(t *testing.T) {
	b := apidtest.New(t, apidtest.Options{AuditDir: "/proc/none/audit"})
	b.Marks.Next()
	c := client(t, b.Certificate(apid.Owner))
	status, _, code := ask(t, c, "POST", "https://"+b.Address+"/v1/power/reboot", nil)
	if status != http.StatusServiceUnavailable || code != manage.CodeAudit || len(b.Behind.Calls()) > 0 {
		t.Errorf("%d %s %q", status, code, b.Behind.Calls())
	}
	if status, body, _ := ask(t, c, "GET", "https://"+b.Address+"/v1/status", nil); status != 200 || !strings.Contains(string(body), "audit.sick") {
		t.Errorf("status %d %s", status, body)
	}
}

// TestBrokenRecord: an altered record is kept for the owner, and does not end
// the management of the box.
func TestBrokenRecord(t *testing.T) {
	dir := t.TempDir() + "/audit"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/audit-000000000001.jsonl", []byte("{\"number\":1}\nrubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := apidtest.New(t, apidtest.Options{AuditDir: dir})
	b.Marks.Next()
	c := client(t, b.Certificate(apid.Owner))
	if status, _, _ := ask(t, c, "POST", "https://"+b.Address+"/v1/power/reboot", nil); status != 200 {
		t.Errorf("an act on a new record: %d", status)
	}
	if _, body, _ := ask(t, c, "GET", "https://"+b.Address+"/v1/status", nil); !strings.Contains(string(body), "audit.broken") {
		t.Errorf("status %s", body)
	}
	if _, err := os.Stat(dir + ".broken/audit-000000000001.jsonl"); err != nil {
		t.Error(err)
	}
}
