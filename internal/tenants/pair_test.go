package tenants

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// What the checks of a configuration let pass, New takes: "pforte config check" on a
// laptop must not promise what the box then refuses. Documents with every field are
// changed at random, a line or a few at a time.
func TestCheckedDocumentsAreTaken(t *testing.T) {
	data, err := os.ReadFile("../config/testdata/complete.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	rng := rand.New(rand.NewPCG(3, 4))
	good, tries := 0, 2000
	if os.Getenv("PAIR") != "" {
		tries = 1 << 30
	}
	end := time.Now().Add(25 * time.Second)
	for range tries {
		if time.Now().After(end) {
			break
		}
		text := strings.Join(changed(rng, lines), "\n")
		doc, err := config.Parse([]byte(text))
		if err != nil {
			continue
		}
		good++
		if _, err := New(doc); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	if good < 10 {
		t.Errorf("only %d of the changed documents pass the checks", good)
	}
	t.Logf("%d documents", good)
}

var oddValues = []string{"x", "1", "true", "both", "send", "receive", "none", "*@amt.example", "*", "a@b.example", "POST@B.example", "refuse", "mark", "bulk", "[]", "10.0.0.0/8", "0.0.0.0/0",
	"[confirm-retrieve]", "[private, confirm-retrieve]", "a@1.2", "x@" + strings.Repeat("a", 60) + ".de-mail.example", "localhost.1", "255", "\"*@\"", "'a;b'"}

// changed makes a few random changes in lines.
func changed(rng *rand.Rand, lines []string) []string {
	out := append([]string(nil), lines...)
	for range 1 + rng.IntN(3) {
		i, j := rng.IntN(len(out)), rng.IntN(len(out))
		key, value, pair := strings.Cut(out[i], ": ")
		switch rng.IntN(6) {
		case 0:
			out = append(out[:i], out[i+1:]...)
		case 1:
			out = append(out[:i+1], out[i:]...)
		case 2:
			if _, other, ok := strings.Cut(out[j], ": "); ok && pair {
				out[i] = key + ": " + other
			}
		case 3:
			if pair {
				out[i] = key + ": " + oddValues[rng.IntN(len(oddValues))]
			}
		case 4:
			if n := len(value); pair && n > 0 {
				at := rng.IntN(n)
				out[i] = key + ": " + value[:at] + string("aZ.@-*0 ;\"'="[rng.IntN(12)]) + value[at+rng.IntN(2):]
			}
		case 5:
			out[i], out[j] = out[j], out[i]
		}
	}
	return out
}
