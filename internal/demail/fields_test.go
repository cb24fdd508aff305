package demail

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStripProviderFields(t *testing.T) {
	h, _, err := readHeader("X-De-Mail-Auth-Level : high\r\nSubject: x\r\nx-de-mail-integrity: v=1\r\nX-Other: y\r\n" +
		"x-de-mail-private: yes\r\nX-DE-MAIL-AUTH-LEVEL:\r\n high\r\nx-de-mail-future: z\r\nEnvelope-To: a\r\nx-de-mail: kept\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	gone := StripProviderFields(h)
	if diff := cmp.Diff([]string{"x-de-mail-auth-level", "x-de-mail-integrity", "x-de-mail-future", "envelope-to"}, gone); diff != "" {
		t.Error(diff)
	}
	if got := text(t, h); got != "Subject: x\r\nX-Other: y\r\nx-de-mail-private: yes\r\nx-de-mail: kept\r\n\r\n" {
		t.Errorf("left: %q", got)
	}
	if gone := StripProviderFields(h); gone != nil {
		t.Errorf("a second time: %q", gone)
	}
}

func TestProviderFieldsAndSenderFieldsDivideTheTable(t *testing.T) {
	provider, sender := ProviderFields(), senderFields()
	for _, r := range Rules() {
		p, s := slices.Contains(provider, r.Name), slices.Contains(sender, r.Name)
		if strings.HasPrefix(r.Name, fieldPrefix) && p == s || p != r.Provider {
			t.Errorf("%s: provider %v, sender %v", r.Name, p, s)
		}
		if r.Name != lowerASCII(r.Name) {
			t.Errorf("%s is not in lower case", r.Name)
		}
	}
}

// sealed is the sample as a provider would send it.
func sealed(t testing.TB) *Header {
	t.Helper()
	h := sample(t)
	if err := Seal(h, strings.NewReader(sampleBody), IntegrityOptions{}); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *Header)
		want   []string // fields at fault
	}{
		"complete":              {func(*Header) {}, nil},
		"options may be absent": {func(h *Header) { h.Remove(FieldPrivate, FieldConfirmReceipt) }, nil},
		"option in capitals":    {set(FieldPrivate, "YES"), []string{FieldPrivate}},
		"no type":               {func(h *Header) { h.Remove(FieldMessageType) }, []string{FieldMessageType}},
		"unknown type":          {set(FieldMessageType, "Normal"), []string{FieldMessageType}},
		"no integrity":          {func(h *Header) { h.Remove(FieldIntegrity) }, []string{FieldIntegrity}},
		"bad sender":            {set(FieldSender, "x"), []string{FieldSender}},
		"bad recipient":         {set(FieldChosenRecipient, "a@b.example"), []string{FieldChosenRecipient}},
		"bad level":             {set(FieldAuthLevel, "High"), []string{FieldAuthLevel}},
		"empty mechanism":       {set(FieldAuthMechanism, ""), []string{FieldAuthMechanism}},
		"bad provider":          {set(FieldOriginatorProvider, "a b"), []string{FieldOriginatorProvider}},
		"bad version":           {set(FieldVersion, "1.3"), []string{FieldVersion}},
		"bad certificate":       {set(FieldSignatureCertificate, "AAAA"), []string{FieldSignatureCertificate}},
		"bad date":              {set("date", "gestern"), []string{"date"}},
		"bad reply-to":          {set("reply-to", "a@b.example, c@d.example"), []string{"reply-to"}},
		"good reply-to":         {set("reply-to", "Amt <a@b.example>"), nil},
		"notification type":     {set(FieldNotificationType, "other"), []string{FieldNotificationType}},
		"long private-id":       {set(FieldPrivateID, strings.Repeat("ä ", 513)), []string{FieldPrivateID}},
		"private-id":            {set(FieldPrivateID, strings.Repeat("ä ", 512)), nil},
		"two faults":            {func(h *Header) { h.Remove("from", "subject") }, []string{"subject", "from"}},
	} {
		h := sealed(t)
		c.change(h)
		_, faults := Validate(h)
		var got []string
		for _, f := range faults {
			got = append(got, f.Field)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if (faults.Err() == nil) != (c.want == nil) {
			t.Errorf("%s: Err() = %v", name, faults.Err())
		}
	}
}

func set(name, value string) func(*Header) {
	return func(h *Header) {
		if err := h.Replace(name, value); err != nil {
			panic(err)
		}
	}
}

func TestValidateNotification(t *testing.T) {
	h := sealed(t)
	set(FieldMessageType, "notification")(h)
	h.Remove(FieldConfirmDispatch, FieldConfirmReceipt, FieldConfirmRetrieve, FieldAuthoritative, FieldPrivate, FieldAccountHolder)
	set(FieldNotificationType, "unknown-recipient")(h)
	if typ, faults := Validate(h); typ != TypeNotification || faults != nil {
		t.Fatalf("%s: %v", typ, faults)
	}
	set(FieldVersion, "7")(h)
	h.Remove(FieldIntegrity, "date")
	_, faults := Validate(h)
	if len(faults) != 3 || faults.Err() != nil {
		t.Errorf("a notification is stopped by %v", faults)
	}
	for _, change := range []func(*Header){set(FieldNotificationType, "strange"), func(h *Header) { h.Remove(FieldNotificationType) }} {
		h := h.Clone()
		change(h)
		if _, faults = Validate(h); len(faults) != 4 || faults.Err() == nil || !strings.HasPrefix(faults.Err().Error(), FieldNotificationType) {
			t.Errorf("of what kind a notification is must be well-formed: %v", faults)
		}
	}
	h.Remove(FieldOriginatorProvider)
	if _, faults = Validate(h); faults.Err() == nil || strings.Count(faults.Err().Error(), "\n") != 0 {
		t.Errorf("without provider: %v", faults.Err())
	}
}

func TestClasses(t *testing.T) {
	for typ, want := range map[MessageType]Class{
		TypeNormal: ClassNormal, TypeDispatch: ClassConfirmation, TypeMalwareAcknowledge: ClassConfirmation,
		TypeMalwareNotification: ClassNotification, TypeNotification: ClassNotification, TypeIdentification: ClassIdent,
	} {
		if got, ok := typ.Class(); !ok || got != want {
			t.Errorf("%s: class %d, %v", typ, got, ok)
		}
	}
	if _, ok := MessageType("").Class(); ok {
		t.Error("the empty type has a class")
	}
	for typ, want := range map[MessageType]string{
		TypeDispatch: "*Versandbestätigung* ", TypeReceipt: "*Eingangsbestätigung* ", TypeRetrieve: "*Abholbestätigung* ", TypeNormal: "",
	} {
		if got := typ.SubjectPrefix(); got != want {
			t.Errorf("%s: prefix %q", typ, got)
		}
	}
}

func TestOptions(t *testing.T) {
	h := NewHeader()
	if HasOptions(h) {
		t.Error("an empty header has options")
	}
	want := Options{ConfirmReceipt: true, Private: true}
	want.Apply(h)
	set("x", "1")(h)
	got, err := OptionsFromHeader(h)
	if err != nil || got != want || !HasOptions(h) {
		t.Errorf("got %+v, %v", got, err)
	}
	h, _, err = readHeader("x-de-mail-private: yes\r\nx-de-mail-private: no\r\nX-De-Mail-Authoritative: Yes\r\nx-de-mail-confirmation-of-receipt:\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	got, err = OptionsFromHeader(h)
	if !errors.Is(err, ErrOption) || strings.Count(err.Error(), "neither yes nor no") != 2 {
		t.Errorf("bad values: %v", err)
	}
	if got != (Options{Private: true}) {
		t.Errorf("the first field does not count: %+v", got)
	}
}

func TestOptionsCheck(t *testing.T) {
	for _, c := range []struct {
		o      Options
		level  Level
		public bool
		faults int
	}{
		{Options{}, LevelNormal, false, 0},
		{Options{ConfirmDispatch: true, ConfirmReceipt: true}, LevelNormal, false, 0},
		{Options{Private: true}, LevelNormal, false, 1},
		{Options{Private: true}, LevelHigh, false, 0},
		{Options{Authoritative: true}, LevelNormal, true, 1},
		{Options{Authoritative: true}, LevelHigh, false, 0},
		{Options{ConfirmRetrieve: true, Private: true}, LevelHigh, true, 0},
		{Options{ConfirmRetrieve: true}, LevelHigh, true, 1},
		{Options{ConfirmRetrieve: true, Private: true}, LevelHigh, false, 1},
		{Options{ConfirmRetrieve: true}, LevelNormal, false, 3},
		{Options{Private: true}, "", false, 1},
	} {
		err := c.o.Check(c.level, c.public)
		n := 0
		if err != nil {
			n = 1 + strings.Count(err.Error(), "\n")
		}
		if n != c.faults {
			t.Errorf("%+v at %q: %v", c.o, c.level, err)
		}
		var oe *OptionError
		if err != nil && (!errors.As(err, &oe) || oe.Remedy == "" || !errors.Is(err, ErrOption)) {
			t.Errorf("%+v: no remedy in %v", c.o, err)
		}
	}
}
