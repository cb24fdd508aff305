package queue

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What was written can be read before it is committed, twice, and the body goes on
// afterwards as if nobody had looked.
func TestBodyReader(t *testing.T) {
	for _, size := range []int{0, 1, InlineLimit, InlineLimit + 1, 3*InlineLimit + 7} {
		q := openTest(t, vfs.NewMem())
		want := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		b, err := q.NewBody(int64(size) + 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write(want); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r, err := b.Reader()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) || r.Close() != nil {
				t.Fatalf("%d bytes: read %d, %v", size, len(got), err)
			}
		}
		if _, err := b.Write([]byte("more")); err != nil {
			t.Fatal(err)
		}
		e := testEnvelope("a", "x@y.de-mail.example")
		e.Prefix = nil
		if err := q.Commit(context.Background(), e, b); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Reader(); err == nil {
			t.Error("a finished body can be read")
		}
		r, err := q.Body(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, append(want, "more"...)) {
			t.Errorf("%d bytes: stored %d, %v", size, len(got), err)
		}
		_ = r.Close()
	}
}
