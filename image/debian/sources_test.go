package debian

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const debianKey = "/usr/share/keyrings/debian-archive-keyring.gpg"

func TestParseDeb822(t *testing.T) {
	tests := []struct {
		name, text string
		want       []Source
	}{
		{"two addresses", "Types: deb deb-src\nURIs: http://a/debian http://b/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: " + debianKey + "\n", []Source{
			{"http://a/debian", []string{"bookworm", "bookworm-updates"}, []string{"main"}, debianKey},
			{"http://b/debian", []string{"bookworm", "bookworm-updates"}, []string{"main"}, debianKey},
		}},
		{"switched off", "Enabled: no\nTypes: deb\nURIs: http://a\nSuites: x\nComponents: main\n", nil},
		{"source only", "Types: deb-src\nURIs: http://a\nSuites: x\nComponents: main\n", nil},
		{"comments, case and continuation", "# note\nTYPES: deb\nuris:\n http://a\n# inside\n\thttp://b\nSuites: sid\nComponents: main contrib\n", []Source{
			{"http://a", []string{"sid"}, []string{"main", "contrib"}, ""},
			{"http://b", []string{"sid"}, []string{"main", "contrib"}, ""},
		}},
		{"key inside", "Types: deb\nURIs: http://a\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n", []Source{
			{"http://a", []string{"sid"}, []string{"main"}, "inline"},
		}},
		{"two stanzas", "Types: deb\nURIs: http://a\nSuites: s\nComponents: main\n\n\nTypes: deb\nURIs: http://b\nSuites: t\nComponents: main\n", []Source{
			{"http://a", []string{"s"}, []string{"main"}, ""},
			{"http://b", []string{"t"}, []string{"main"}, ""},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseDeb822(strings.NewReader(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for _, bad := range []string{" continued\n", "no colon here\n"} {
		if _, err := ParseDeb822(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseList(t *testing.T) {
	tests := []struct {
		name, text string
		want       []Source
	}{
		{"plain", "deb http://a/debian bookworm main contrib # note\n", []Source{{"http://a/debian", []string{"bookworm"}, []string{"main", "contrib"}, ""}}},
		{"options", "deb [ arch=amd64 signed-by=/k.gpg ]\thttp://a\ttrixie main\n", []Source{{"http://a", []string{"trixie"}, []string{"main"}, "/k.gpg"}}},
		{"others", "#deb http://a x main\ndeb-src http://a x main\n\ndeb cdrom:[Debian 12]/ bookworm main\n", nil},
		{"flat", "deb http://a ./\n", []Source{{"http://a", []string{"./"}, []string{}, ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseList(strings.NewReader(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for _, bad := range []string{"deb [arch=amd64 http://a x main\n", "deb http://a\n"} {
		if _, err := ParseList(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestHostMirror(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  Mirror
	}{
		{"Debian 12 cloud image", map[string]string{
			"sources.list.d/debian.sources": "Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: bookworm bookworm-updates\nComponents: main\n\n" +
				"Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian-security.list\nSuites: bookworm-security\nComponents: main\n",
		}, Mirror{"mirror+file:///etc/apt/mirrors/debian.list", "mirror+file:///etc/apt/mirrors/debian-security.list"}},
		{"one-line", map[string]string{
			"sources.list": "deb http://m/debian bookworm main\ndeb http://s/debian-security bookworm-security main\n",
		}, Mirror{"http://m/debian", "http://s/debian-security"}},
		{"old security suite", map[string]string{
			"sources.list": "deb http://m/debian buster main\ndeb http://s/sec buster/updates main\n",
		}, Mirror{"http://m/debian", "http://s/sec"}},
		{"security derived", map[string]string{
			"sources.list": "deb http://m/debian/ trixie main\n",
		}, Mirror{"http://m/debian/", "http://m/debian-security"}},
		{"third parties left out", map[string]string{
			"sources.list.d/a-vpn.list":     "deb [signed-by=/usr/share/keyrings/vpn.gpg] http://vpn/debian bookworm main\n",
			"sources.list.d/b.list":         "deb http://docker/linux/debian bookworm stable\n",
			"sources.list.d/c.list.off":     "deb http://off/debian bookworm main\n",
			"sources.list.d/debian.sources": "Types: deb\nURIs: http://m/debian\nSuites: bookworm\nComponents: main\nSigned-By: " + debianKey + "\n",
		}, Mirror{"http://m/debian", "http://m/debian-security"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := fstest.MapFS{}
			for name, text := range tt.files {
				etc[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := HostMirror(etc)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	if _, err := HostMirror(fstest.MapFS{"sources.list": {Data: []byte("deb http://archive/ubuntu noble main\n")}}); !errors.Is(err, ErrNoMirror) {
		t.Errorf("Ubuntu: error is %v, want ErrNoMirror", err)
	}
	if _, err := HostMirror(fstest.MapFS{"sources.list": {Data: []byte("deb http://m/odd trixie main\n")}}); err == nil {
		t.Error("an archive without a known security archive was accepted")
	}
}

func TestParseMirror(t *testing.T) {
	for in, want := range map[string]Mirror{
		"http://m/debian":           {"http://m/debian", "http://m/debian-security"},
		"http://m/x , http://s/sec": {"http://m/x", "http://s/sec"},
		"file:/srv/debian":          {"file:/srv/debian", "file:/srv/debian-security"},
	} {
		if got, err := ParseMirror(in); err != nil || got != want {
			t.Errorf("ParseMirror(%q) = %v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "m", "http://m/x"} {
		if _, err := ParseMirror(bad); err == nil {
			t.Errorf("ParseMirror(%q) worked", bad)
		}
	}
}
