package queue

import (
	"bytes"
	"fmt"
	"io"
)

// Reader reads what was written so far, from the beginning, so that a message
// can be looked into or copied before it is committed without being held in
// memory. Until it is closed nothing may be done with the body.
func (b *Body) Reader() (io.ReadCloser, error) {
	if b.err != nil {
		return nil, b.err
	}
	if b.state != bodyOpen {
		return nil, fmt.Errorf("queue %s: read after the end", b.id)
	}
	var held []io.Reader
	_ = b.pieces(func(p []byte) error {
		held = append(held, bytes.NewReader(p))
		return nil
	})
	tail := io.MultiReader(held...)
	if b.file == nil {
		return io.NopCloser(tail), nil
	}
	f, err := b.q.fs.Open(b.q.spool.path(b.id))
	if err != nil {
		return nil, b.q.bodyError(b.id, err)
	}
	return &reread{io.MultiReader(f, tail), f}, nil
}

// reread hides WriterTo, by which chunks could become large.
type reread struct {
	io.Reader
	io.Closer
}
