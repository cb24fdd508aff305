package rollout

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	open := Order{Boxes: []string{"sn-gw-0?"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour)}
	box := Box{Name: "sn-gw-01", Version: "1.0", Epoch: 3, Failed: []string{"1.1"}, Now: noon}
	tests := []struct {
		name string
		o    func(*Order)
		b    func(*Box)
		c    Candidate
		want error
	}{
		{"allowed", nil, nil, Candidate{"1.2", 3}, nil},
		{"newer epoch", nil, nil, Candidate{"2.0", 4}, nil},
		{"failed before", nil, nil, Candidate{"1.1", 3}, ErrFailedBefore},
		{"older version", nil, nil, Candidate{"0.9", 3}, ErrOlder},
		{"older version, newer epoch", nil, nil, Candidate{"0.9", 4}, nil},
		{"older version, allowed", func(o *Order) { o.Older = true }, nil, Candidate{"0.9", 3}, nil},
		{"older epoch", nil, nil, Candidate{"0.9", 2}, ErrEpoch},
		{"same", nil, nil, Candidate{"1.0", 3}, ErrSame},
		{"other box", nil, func(b *Box) { b.Name = "sn-gw-11" }, Candidate{"1.2", 3}, ErrBox},
		{"too early", nil, func(b *Box) { b.Now = noon.Add(-2 * time.Hour) }, Candidate{"1.2", 3}, ErrWindow},
		{"too late", nil, func(b *Box) { b.Now = noon.Add(2 * time.Hour) }, Candidate{"1.2", 3}, ErrWindow},
		{"no window", func(o *Order) { o.NotBefore, o.NotAfter = time.Time{}, time.Time{} }, func(b *Box) { b.Now = noon.Add(9999 * time.Hour) }, Candidate{"1.2", 3}, nil},
		{"minimum", func(o *Order) { o.MinimumEpoch = 4 }, nil, Candidate{"2.0", 5}, ErrMinimum},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, b := open, box
			if tt.o != nil {
				tt.o(&o)
			}
			if tt.b != nil {
				tt.b(&b)
			}
			err := Decide(o, tt.c, b)
			if !errors.Is(err, tt.want) {
				t.Errorf("Decide = %v, want %v", err, tt.want)
			}
			if helpless := Remedy(err) == ""; helpless != (err == nil || errors.Is(err, ErrSame)) {
				t.Errorf("remedy of %v: %q", err, Remedy(err))
			}
		})
	}
}

func TestParse(t *testing.T) {
	tests := []struct{ in, want string }{
		{`{"boxes":["*"]}`, ""},
		{`{"boxes":["a"],"notBefore":"2026-01-01T00:00:00Z","notAfter":"2026-02-01T00:00:00Z","atOnce":2,"minimumEpoch":1}`, ""},
		{``, "no order"},
		{`{}`, "names no box"},
		{`{"boxes":["["]}`, "no pattern"},
		{`{"boxes":["*"],"box":1}`, "unknown field"},
		{`{"boxes":["*"]} {}`, "after the JSON"},
		{`{"boxes":["*"],"atOnce":-1}`, "negative"},
		{`{"boxes":["*"],"notBefore":"2026-03-01T00:00:00Z","notAfter":"2026-02-01T00:00:00Z"}`, "ends before"},
		{`{"boxes":["` + strings.Repeat("a", maxOrder) + `"]}`, "larger than"},
	}
	for _, tt := range tests {
		_, err := Parse([]byte(tt.in))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("Parse(%.60q) = %v, want %q", tt.in, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"boxes":["*"],"notBefore":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"boxes":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o, err := Parse(data); err == nil && o.Validate() != nil {
			t.Error("parsed an order that is not valid")
		}
	})
}
