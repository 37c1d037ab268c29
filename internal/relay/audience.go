package relay

import "slices"

// maxAudienceBytes bounds what the sessions of one document tell of themselves: all
// of it is sent to everyone who joins. A client tells some 300 to 600 bytes.
const maxAudienceBytes = 64 << 20

// audience is the sessions of a document as joiners are told of them: a JSON list
// that is kept encoded, because a thousand who join at once are told of each other a
// million times.
type audience struct {
	bytes int    // of all members
	list  []byte // the members, with commas between; made anew when stale
	stale bool
}

// fits says whether there is room for one more member.
func (a *audience) fits(member []byte) bool { return a.bytes+len(member) <= maxAudienceBytes }

func (a *audience) add(member []byte) {
	a.bytes += len(member)
	if a.stale {
		return
	}
	if len(a.list) > 0 {
		a.list = append(a.list, ',')
	}
	a.list = append(a.list, member...)
}

func (a *audience) remove(member []byte) {
	a.bytes -= len(member)
	a.list, a.stale = nil, true
}

// encoded returns the list of the members of all sessions, without its brackets. It
// is valid until the next call of any method.
func (a *audience) encoded(sessions []*session) []byte {
	if !a.stale {
		return a.list
	}
	a.list = slices.Grow(a.list[:0], a.bytes+len(sessions))
	a.stale = false
	a.bytes = 0
	for _, s := range sessions {
		a.add(s.member)
	}
	return a.list
}
