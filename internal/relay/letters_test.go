package relay

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
	"golang.org/x/tools/txtar"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// Each file in testdata/letters is one letter and what becomes of it. Its comment
// says what it shows, and may set "system:", "from:", "to:" (several) and "utf8:".
// Then there are the sections in, and out (header and body as handed over) with
// attributes, or refusal. Line ends are LF in the files. UPDATE=1 writes what came
// out anew, to be read before it is committed.
func TestLetters(t *testing.T) {
	files, err := filepath.Glob("testdata/letters/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := post(t, a)
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(name, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(txtar.Format(a)); string(txtar.Format(got)) != want {
				t.Errorf("became\n%s\nwant\n%s", txtar.Format(got), want)
			}
		})
	}
}

// letterWorld: tenant A has options and keywords; tenant B keeps its Received fields.
func letterWorld(t testing.TB) *outWorld {
	return newOutWorld(t, func(d *config.Document) {
		d.Tenants[0].Options = []config.DispatchDefault{{Sender: "wohngeld@gemeinde-a.example", Ask: []string{config.AskDispatch, config.AskReceipt}}}
		d.Tenants[0].Keywords = []config.Keyword{{Text: "#privat", Ask: []string{config.AskPrivate}}, {Text: "[amtlich bestätigt]", Ask: []string{config.AskAuthoritative}},
			{Text: "#abholen", Ask: []string{config.AskRetrieve, config.AskPrivate}}}
		d.Tenants[0].Mappings = append(d.Tenants[0].Mappings, config.Mapping{Mail: "*@amt.gemeinde-a.example", DeMail: "*@bau.gemeinde-a.de-mail.example"},
			config.Mapping{Mail: "intern@amt.gemeinde-a.example", Direction: config.DirectionNone})
		d.Tenants[1].KeepReceived = true
		d.Tenants[1].Clients[0].Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
}

// post hands a letter in and returns the archive with what came of it.
func post(t *testing.T, a *txtar.Archive) *txtar.Archive {
	set := map[string][]string{}
	for line := range strings.SplitSeq(string(a.Comment), "\n") {
		if key, value, ok := strings.Cut(line, ": "); ok {
			set[key] = append(set[key], value)
		}
	}
	first := func(key, usual string) string {
		if len(set[key]) > 0 {
			return set[key][0]
		}
		return usual
	}
	w := letterWorld(t)
	s := w.session(first("system", "server a"))
	to := set["to"]
	if to == nil {
		to = []string{outCitizen}
	}
	message := strings.ReplaceAll(string(section(t, a, "in")), "\n", "\r\n")
	out := &txtar.Archive{Comment: a.Comment, Files: []txtar.File{{Name: "in", Data: section(t, a, "in")}}}
	add := func(name, text string) {
		out.Files = append(out.Files, txtar.File{Name: name, Data: []byte(strings.ReplaceAll(text, "\r\n", "\n"))})
	}
	answer, err := s.hand(first("from", outMail), smtp.MailOptions{UTF8: first("utf8", "no") == "yes"}, message, to...)
	if err != nil {
		e := refusal(t, err)
		add("refusal", fmt.Sprintf("%d %d.%d.%d %s\n", e.Code, e.Enhanced[0], e.Enhanced[1], e.Enhanced[2], e.Text))
		return out
	}
	got := w.stored(answer)
	variable := regexp.MustCompile(`id\s+[0-9A-Z]{26}; .*|<[0-9A-Z]{26}@`)
	text := variable.ReplaceAllStringFunc(got.header+got.body, func(s string) string {
		if strings.HasPrefix(s, "<") {
			return "<ID@"
		}
		return "id ID; TIME"
	})
	if !strings.Contains(string(section(t, a, "in")), "Date: ") {
		text = regexp.MustCompile(`(?m)^Date: .*$`).ReplaceAllString(text, "Date: TIME")
	}
	add("out", text)
	add("answer", strings.TrimSpace(regexp.MustCompile(`[0-9A-Z]{26}`).ReplaceAllString(answer, "ID"))+"\n")
	return out
}

func section(t *testing.T, a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	t.Fatalf("section %s is missing", name)
	return nil
}
