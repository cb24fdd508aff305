package lan

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
)

// guest is one QEMU network card on the wire.
type guest struct {
	conn net.Conn
	out  chan []byte
}

// accept takes guests until the listener is closed. A guest beyond maxGuests
// is turned away.
func (n *Network) accept() {
	for {
		conn, err := n.listener.Accept()
		if err != nil {
			return
		}
		g := &guest{conn: conn, out: make(chan []byte, queueLen)}
		if !n.join(g) {
			_ = conn.Close()
			continue
		}
		n.wait.Go(func() { n.receive(g) })
		n.wait.Go(g.send)
	}
}

func (n *Network) join(g *guest) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.guests) >= maxGuests {
		return false
	}
	n.guests[g] = true
	return true
}

// receive reads the guest's frames until it disconnects or breaks the framing.
func (n *Network) receive(g *guest) {
	defer func() {
		n.mu.Lock()
		delete(n.guests, g)
		n.mu.Unlock()
		close(g.out) // nobody floods to it any more
		_ = g.conn.Close()
	}()
	r := bufio.NewReaderSize(g.conn, frameMax)
	var size [4]byte
	for {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		length := binary.BigEndian.Uint32(size[:])
		if length == 0 || length > frameMax {
			return
		}
		frame := make([]byte, length)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		n.flood(g, frame)
		n.toStack(frame)
	}
}

// send writes queued frames; after a write error it only drains.
func (g *guest) send() {
	var failed bool
	for frame := range g.out {
		if failed {
			continue
		}
		head := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
		if _, err := g.conn.Write(append(head, frame...)); err != nil {
			failed = true
			_ = g.conn.Close()
		}
	}
}
