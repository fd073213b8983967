package auth

import (
	"context"
	"time"
)

// session is one long request that goes on only while its token is good.
type session struct{ wake chan struct{} }

// Watch calls recheck whenever the right of a long request to go on may have ended:
// when its token is revoked or expires, and when auth is turned on or off. It
// returns the first error of recheck, or nil when ctx ends. The caller should have
// checked before.
func (s *Service) Watch(ctx context.Context, id Identity, recheck func() error) error {
	me := &session{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	if s.sessions[id.Key] == nil {
		s.sessions[id.Key] = map[*session]struct{}{}
	}
	s.sessions[id.Key][me] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions[id.Key], me)
		if len(s.sessions[id.Key]) == 0 {
			delete(s.sessions, id.Key)
		}
	}()
	// What changed between the check and now has woken nobody.
	me.wake <- struct{}{}
	due := id.Expiration
	for {
		expires, stop := s.timer(due)
		select {
		case <-ctx.Done():
		case <-me.wake:
		case <-expires:
		}
		stop()
		if ctx.Err() != nil {
			return nil
		}
		if err := recheck(); err != nil {
			return err
		}
		if now := s.clock.Now(); !due.IsZero() && !now.Before(due) {
			due = now.Add(time.Second) // expired, but auth is off
		}
	}
}

// timer fires at t, never if that is zero.
func (s *Service) timer(t time.Time) (fires <-chan time.Time, stop func()) {
	if t.IsZero() {
		return nil, func() {}
	}
	return s.clock.Timer(t)
}

// Changed has the long requests looked at again that were begun with a token, named
// by Identity.Key.
func (s *Service) Changed(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for me := range s.sessions[key] {
		me.notify()
	}
}

// changedAll is Changed of all of them.
func (s *Service) changedAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, same := range s.sessions {
		for me := range same {
			me.notify()
		}
	}
}

func (me *session) notify() {
	select {
	case me.wake <- struct{}{}:
	default:
	}
}
