package queue

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

// InlineLimit is the largest body in bytes that is stored within the index, so
// that one fsync covers the whole message. It is also all that an open Body
// holds in memory, and of that only what has come: larger ones go to a file as
// they come, and then hold one chunk.
const InlineLimit = 128 << 10

// firstInlineLimit was InlineLimit when format 1 began: what is larger, up to
// InlineLimit, may have a body of either kind.
const firstInlineLimit = 64 << 10

// chunkSize is by how much a Body's memory grows.
const chunkSize = 16 << 10

type chunk [chunkSize]byte

// Body takes a message's body as it comes in. It is for one goroutine, and
// ends with Commit, Finish (as part of a Birth) or Abort.
type Body struct {
	q     *Queue
	id    ID
	limit int64
	size  int64
	hash  hash.Hash
	held  []*chunk        // what is not in the file, full but for the last
	n     int             // bytes held
	file  *durable.Writer // nil while everything fits in memory
	err   error           // first fault; sticky
	state bodyState
}

type bodyState uint8

const (
	bodyOpen   bodyState = iota
	bodySealed           // stored as far as the body goes; its batch is to follow
	bodyDone             // committed or aborted
)

// NewBody begins a message of at most limit bytes and gives it its ID, so that
// the caller can put the ID into a Received field before the first byte.
func (q *Queue) NewBody(limit int64) (*Body, error) {
	if err := q.health.err(); err != nil {
		return nil, err
	}
	return &Body{q: q, id: q.ids.next(time.Now()), limit: limit, hash: sha256.New()}, nil
}

// ID is the message's queue ID.
func (b *Body) ID() ID { return b.id }

// Size is the number of bytes written so far.
func (b *Body) Size() int64 { return b.size }

// Write appends p. It returns ErrTooLarge beyond the limit, ErrFull and ErrSick
// as they say; after any error the body can only be aborted.
func (b *Body) Write(p []byte) (int, error) {
	if b.err == nil && b.state != bodyOpen {
		b.err = fmt.Errorf("queue %s: write after the end", b.id)
	}
	if b.err == nil && b.size+int64(len(p)) > b.limit {
		b.err = fmt.Errorf("queue %s: %w: more than %d bytes", b.id, ErrTooLarge, b.limit)
	}
	if b.err != nil {
		return 0, b.err
	}
	b.hash.Write(p)
	b.size += int64(len(p))
	written := 0
	for written < len(p) {
		if b.n == len(b.held)*chunkSize {
			if err := b.grow(); err != nil {
				return written, err
			}
		}
		n := copy(b.held[b.n/chunkSize][b.n%chunkSize:], p[written:])
		b.n += n
		written += n
	}
	return written, nil
}

// grow makes room for more: by another chunk, or by moving to the file.
func (b *Body) grow() error {
	if b.n == InlineLimit || b.file != nil {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if b.n == len(b.held)*chunkSize {
		b.held = append(b.held, b.q.buffers.Get().(*chunk))
	}
	return nil
}

// pieces calls do with what is held, in order, until do fails.
func (b *Body) pieces(do func([]byte) error) error {
	for i, left := 0, b.n; left > 0; i++ {
		n := min(left, chunkSize)
		if err := do(b.held[i][:n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// flush moves what is held into the file, which it makes at first need, and keeps
// one chunk.
func (b *Body) flush() error {
	var err error
	if b.file == nil {
		b.file, err = b.q.spool.create(b.id)
	}
	if err == nil {
		err = b.pieces(func(p []byte) error {
			_, err := b.file.Write(p)
			return err
		})
	}
	b.n = 0
	b.shrink(1)
	if err != nil {
		b.err = b.q.bodyError(b.id, err)
	}
	return b.err
}

// shrink gives memory back, but for so many chunks.
func (b *Body) shrink(keep int) {
	for len(b.held) > keep {
		last := len(b.held) - 1
		b.q.buffers.Put(b.held[last])
		b.held = b.held[:last]
	}
}

// seal makes a body file durable under its final name. An inline body stays in
// memory for the batch.
func (b *Body) seal() error {
	if b.err != nil {
		return b.err
	}
	if b.state != bodyOpen {
		return fmt.Errorf("queue %s: body is finished", b.id)
	}
	b.state = bodySealed
	if b.file == nil {
		return nil
	}
	if err := b.flush(); err != nil {
		return err
	}
	if err := b.file.Commit(); err != nil {
		b.err = b.q.bodyError(b.id, err)
	}
	return b.err
}

// inline reports whether the body is small enough to stand in the index.
func (b *Body) inline() bool { return b.file == nil }

// record puts an inline body into a record of its size and recordExtra.
func (b *Body) record(to []byte) {
	at := recordHead
	_ = b.pieces(func(p []byte) error {
		at += copy(to[at:], p)
		return nil
	})
	frameInline(to)
}

// leave gives the memory of an inline body away: to whoever keeps it, if it is small.
func (b *Body) leave() (kept []*chunk) {
	if b.n <= maxRecentBody {
		kept, b.held = b.held, nil
	}
	b.n = 0
	b.shrink(0)
	return kept
}

// Abort drops the body. It does nothing after Commit or Finish, so it can be deferred.
func (b *Body) Abort() {
	if b.state == bodyDone {
		return
	}
	if b.file != nil {
		b.file.Abort()
	}
	if b.file != nil && b.state == bodySealed {
		if err := b.q.spool.remove(b.id); err != nil {
			b.q.log.Warn("queue body is left behind until the next start", "id", b.id, "error", err)
		}
	}
	if b.file != nil {
		b.q.spool.settle(b.id)
	}
	b.done()
}

// done gives the memory back. The body's file, if any, stays.
func (b *Body) done() {
	if b.state == bodyDone {
		return
	}
	b.state = bodyDone
	b.shrink(0)
}

func (b *Body) sum() (sum [sha256.Size]byte) {
	b.hash.Sum(sum[:0])
	return sum
}

// bodyError gives a body's fault its sentinel.
func (q *Queue) bodyError(id ID, err error) error {
	if sick := q.health.err(); sick != nil {
		return fmt.Errorf("queue %s: %w", id, sick)
	}
	if isFull(err) {
		return fmt.Errorf("queue %s: %w: %w", id, ErrFull, err)
	}
	return fmt.Errorf("queue %s: %w", id, err)
}

// BodyReader reads a message for delivery: the envelope's Prefix, then the body
// as it came in. It checks size and SHA-256 at the end: a Read returns io.EOF
// only if both fit, and ErrCorrupt otherwise. So whoever sends must hold back
// the end of data until io.EOF was seen.
type BodyReader struct {
	id     ID
	prefix []byte
	src    io.Reader
	close  func() error
	size   int64 // of the body
	total  int64
	want   [sha256.Size]byte
	hash   hash.Hash
	seen   int64
	fail   func(error) // told of corruption
}

// Size is the number of bytes that will be read: prefix and body.
func (r *BodyReader) Size() int64 { return r.total }

// Read implements io.Reader.
func (r *BodyReader) Read(p []byte) (int, error) {
	if len(r.prefix) > 0 {
		n := copy(p, r.prefix)
		r.prefix = r.prefix[n:]
		return n, nil
	}
	n, err := r.src.Read(p)
	r.hash.Write(p[:n])
	r.seen += int64(n)
	if err == io.EOF && (r.seen != r.size || [sha256.Size]byte(r.hash.Sum(nil)) != r.want) {
		err = fmt.Errorf("queue %s: %w: body does not match its hash", r.id, ErrCorrupt)
		r.fail(err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *BodyReader) Close() error { return r.close() }
