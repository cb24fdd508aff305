package queue

import (
	"fmt"
	"hash"
	"io"
	"time"
)

// InlineLimit is the largest body in bytes that is stored within the index, so
// that one fsync covers the whole message. It is also all that an open Body
// holds in memory, and of that only what has come: larger ones go to a file as
// they come, and then hold one buffer of half that size.
const InlineLimit = 128 << 10

// firstInlineLimit was InlineLimit when format 1 began: what is larger, up to
// InlineLimit, may have a body of either kind.
const firstInlineLimit = 64 << 10

// chunkSize is by how much a Body's memory grows.
const chunkSize = 16 << 10

// wideSize is how much goes to a file at a time: smaller writes cost more.
const wideSize = 64 << 10

type (
	chunk [chunkSize]byte
	wide  [wideSize]byte
)

// Body takes a message's body as it comes in. It is for one goroutine, and
// ends with Commit, Finish (as part of a Birth) or Abort.
type Body struct {
	q     *Queue
	id    ID
	limit int64
	size  int64
	hash  hash.Hash
	held  []*chunk  // all of it, while that fits in memory; full but for the last
	file  *bodyFile // nil until then
	wide  *wide     // what is not in the file yet
	n     int       // bytes held, in the one or the other
	err   error     // first fault; sticky
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
	return &Body{q: q, id: q.ids.next(time.Now()), limit: limit, hash: newSum()}, nil
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
		room, err := b.room()
		if err != nil {
			return written, err
		}
		n := copy(room, p[written:])
		b.n += n
		written += n
	}
	return written, nil
}

// room is where the next bytes go, at least one: after what is held, in one more
// chunk, or in the file's buffer.
func (b *Body) room() ([]byte, error) {
	if b.file == nil && b.n == InlineLimit {
		if err := b.spill(); err != nil {
			return nil, err
		}
	}
	if b.file != nil {
		if b.n == len(b.wide) {
			if err := b.flush(); err != nil {
				return nil, err
			}
		}
		return b.wide[b.n:], nil
	}
	if b.n == len(b.held)*chunkSize {
		b.held = append(b.held, b.q.buffers.Get().(*chunk))
	}
	return b.held[b.n/chunkSize][b.n%chunkSize:], nil
}

// pieces calls do with what is held in memory, in order, until do fails.
func (b *Body) pieces(do func([]byte) error) error {
	if b.wide != nil {
		return do(b.wide[:b.n])
	}
	for i, left := 0, b.n; left > 0; i++ {
		n := min(left, chunkSize)
		if err := do(b.held[i][:n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// spill moves what is held into a file, and goes on with a buffer for that.
func (b *Body) spill() error {
	var err error
	b.file, err = b.q.spool.create(b.id)
	if err == nil {
		err = b.pieces(func(p []byte) error {
			_, err := b.file.Write(p)
			return err
		})
	}
	if err != nil {
		b.err = b.q.bodyError(b.id, err)
		return b.err
	}
	b.n = 0
	b.shrink()
	b.wide = b.q.wides.Get().(*wide)
	return nil
}

// flush moves the buffer into the file.
func (b *Body) flush() error {
	if _, err := b.file.Write(b.wide[:b.n]); err != nil {
		b.err = b.q.bodyError(b.id, err)
	}
	b.n = 0
	return b.err
}

// shrink gives the memory back.
func (b *Body) shrink() {
	for _, c := range b.held {
		b.q.buffers.Put(c)
	}
	b.held = nil
	if b.wide != nil {
		b.q.wides.Put(b.wide)
		b.wide = nil
	}
}

// seal makes a body file durable. An inline body stays in
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
	if b.n > 0 {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if err := b.file.seal(); err != nil {
		b.err = b.q.bodyError(b.id, err)
	}
	return b.err
}

// inline reports whether the body is small enough to stand in the index.
func (b *Body) inline() bool { return b.file == nil }

// heldInline is how many bytes will stand in the index.
func (b *Body) heldInline() int {
	if b.inline() {
		return b.n
	}
	return 0
}

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
	b.shrink()
	return kept
}

// Abort drops the body. It does nothing after Commit or Finish, so it can be deferred.
func (b *Body) Abort() {
	if b.state == bodyDone {
		return
	}
	if b.file != nil {
		if err := b.file.remove(); err != nil {
			b.q.log.Warn("queue body is left behind until the next start", "id", b.id, "error", err)
		}
	}
	b.done()
}

// done gives the memory back. The body's file, if any, stays.
func (b *Body) done() {
	if b.state == bodyDone {
		return
	}
	b.state = bodyDone
	b.shrink()
}

func (b *Body) sum() Sum { return Sum(b.hash.Sum(nil)) }

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
// as it came in. It checks size and Sum at the end: a Read returns io.EOF
// only if both fit, and ErrCorrupt otherwise. So whoever sends must hold back
// the end of data until io.EOF was seen.
type BodyReader struct {
	id     ID
	prefix []byte
	src    io.Reader
	close  func() error
	size   int64 // of the body
	total  int64
	want   Sum
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
	if err == io.EOF && (r.seen != r.size || Sum(r.hash.Sum(nil)) != r.want) {
		err = fmt.Errorf("queue %s: %w: body does not match its check sum", r.id, ErrCorrupt)
		r.fail(err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *BodyReader) Close() error { return r.close() }
