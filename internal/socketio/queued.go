package socketio

// QueuedBytes is how much waits to be written, of all sockets. It looks at each
// socket: sending costs nothing more for it.
func (s *Server) QueuedBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for socket := range s.sockets {
		n += socket.queuedBytes()
	}
	return n
}

func (s *Socket) queuedBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queued
}
