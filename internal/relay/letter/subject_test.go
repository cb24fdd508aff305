package letter

import (
	"errors"
	"fmt"
	"mime"
	"strings"
	"testing"
)

func TestStrike(t *testing.T) {
	keywords := []string{"[persönlich]", "#einschreiben", "Eilt sehr"}
	for _, test := range []struct {
		in, want string
		found    string // indexes
		err      error
	}{
		{"Bescheid", "Bescheid", "[]", nil},
		{"", "", "[]", nil},
		{"Bescheid #einschreiben", "Bescheid", "[1]", nil},
		{"#EinSchreiben Bescheid", "Bescheid", "[1]", nil},
		{"Re: #einschreiben Bescheid", "Re: Bescheid", "[1]", nil},
		{"#einschreiben", "", "[1]", nil},
		{"#einschreiben #einschreiben", "", "[1]", nil},
		{"#ein#einschreiben schreiben", "#ein schreiben", "[1]", nil}, // does not come into being by cutting
		{"Bescheid eilt  sehr", "Bescheid eilt  sehr", "[]", nil},
		{"Bescheid: EILT SEHR, bitte", "Bescheid: , bitte", "[2]", nil},
		{"Bescheid eilt\r\n sehr", "Bescheid", "[2]", nil},
		{"Bescheid eilt\r\n\tsehr", "Bescheid", "[2]", nil},
		{"=?utf-8?b?I2VpbnNjaHJlaWJlbg?= Bescheid", "Bescheid", "[1]", nil}, // padding was left out
		{"=?utf-8?b?I2VpbnNjaHJlaWJlbg=?= Bescheid", "Bescheid", "[1]", nil},
		{"Verweilt sehr", "Verweilt sehr", "[]", nil},
		{"Eilt sehrend", "Eilt sehrend", "[]", nil},
		{"Bescheid #einschreibens", "Bescheid #einschreibens", "[]", nil},
		{"Bescheid#einschreiben", "Bescheid", "[1]", nil}, // # ends a word by itself
		{"a\r\n b\r\n\t#einschreiben\r\n c", "a b c", "[1]", nil},
		{"=?utf-8?q?Gr=C3=BC=C3=9Fe_=23einschreiben?=", "=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "[1]", nil},
		{"=?UTF-8?B?" + b64("Grüße #einschreiben von [PERSÖNLICH] hier") + "?=", "=?utf-8?q?Gr=C3=BC=C3=9Fe_von_hier?=", "[0 1]", nil},
		{"=?iso-8859-15?Q?Geb=FChr_=A4_[pers=F6nlich]?=", "=?utf-8?q?Geb=C3=BChr_=E2=82=AC?=", "[0]", nil},
		{"=?windows-1252*de?Q?=84Geb=FChr=93_#einschreiben?=", "=?utf-8?q?=E2=80=9EGeb=C3=BChr=E2=80=9C?=", "[1]", nil},
		{"=?utf-8?q?Ei?=\r\n =?utf-8?q?lt_sehr?= Antrag", "Antrag", "[2]", nil},
		{"=?utf-8?q?=23einschreiben?= Bescheid", "Bescheid", "[1]", nil},
		{"=?koi8-r?Q?=D0=D2?= #einschreiben", "", "", errSubjectCoding},
		{"=?koi8-r?Q?=D0=D2_=23einschreiben?=", "", "", errSubjectCoding},
		{"=?koi8-r?Q?=D0=D2?= Bescheid", "=?koi8-r?Q?=D0=D2?= Bescheid", "[]", nil},
		{"=?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D_=23einschreiben?=", "", "", errSubjectForm},
		{"=?utf-8?q?a=0D=0ABcc:_x_=23einschreiben?=", "=?utf-8?q?a=0D=0ABcc:_x?=", "[1]", nil}, // no line comes out of it
		{strings.Repeat("x", maxSubject+1), "", "", errSubjectLong},
	} {
		got, found, err := strike(test.in, keywords)
		if !errors.Is(err, test.err) || err == nil && (got != test.want || fmt.Sprint(found) != test.found) {
			t.Errorf("%.60q: %q, %v, %v; want %q, %s, %v", test.in, got, found, err, test.want, test.found, test.err)
		}
	}
	if got, found, err := strike(strings.Repeat("x", maxSubject+1), nil); err != nil || found != nil || len(got) != maxSubject+1 {
		t.Error("without keywords a subject is judged")
	}
}

func b64(s string) string {
	word := mime.BEncoding.Encode("utf-8", s)
	return strings.TrimSuffix(strings.TrimPrefix(word, "=?utf-8?b?"), "?=")
}

// Whatever a subject is: a keyword that was found is not in what remains, and what
// has none stays byte for byte.
func FuzzStrike(f *testing.F) {
	for _, s := range []string{"Bescheid #einschreiben", "=?utf-8?q?=23einschreiben?= x", "=?koi8-r?B?AAAA?=", "#ein#einschreiben schreiben", "a\r\n #einschreiben"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, found, err := strike(s, []string{"#einschreiben", "[x]"})
		if err != nil {
			return
		}
		if found == nil && got != s {
			t.Fatalf("%q became %q", s, got)
		}
		if strings.ContainsAny(got, "\r\n") && found != nil {
			t.Fatalf("%q became %q: line ends", s, got)
		}
		_, again, err := strike(got, []string{"#einschreiben", "[x]"})
		if errors.Is(err, errSubjectLong) && len(got) > maxSubject {
			return // encoded anew it may have thrice the length, and is still handed over
		}
		if err != nil || found != nil && again != nil {
			t.Fatalf("%q became %q, where %v are found again: %v", s, got, again, err)
		}
	})
}
