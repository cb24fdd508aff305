package queue

import "sync"

// sharedSync lets callers that wait for the same fsync share one. Each gets the
// result of a run that began after its call: what it did before is covered.
type sharedSync struct {
	sync func() error

	mu      sync.Mutex
	running bool
	next    *syncRound // callers that wait for the run after the present one
}

type syncRound struct {
	done chan struct{}
	err  error
}

func (s *sharedSync) do() error {
	s.mu.Lock()
	if s.next == nil {
		s.next = &syncRound{done: make(chan struct{})}
	}
	round := s.next
	lead := !s.running
	s.running = true
	s.mu.Unlock()
	if lead {
		s.run()
	}
	<-round.done
	return round.err
}

// run does the round that waits, then hands on to whoever came meanwhile.
func (s *sharedSync) run() {
	s.mu.Lock()
	round := s.next
	s.next = nil
	s.mu.Unlock()
	round.err = s.sync()
	close(round.done)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.running = false
		return
	}
	go s.run()
}
