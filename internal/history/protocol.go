package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// protocol is the quorum at one point of a document: who is connected to write,
// what is proposed, what is agreed. Source: ProtocolOpHandler and Quorum of the
// Fluid protocol-base package.
type protocol struct {
	Seq, MSN  sequencer.Seq
	members   []member   // in the order they joined
	proposals []proposal // in order of seq
	values    []value    // in the order their keys were first agreed
}

type member struct {
	clientID string
	body     memberBody
}

type memberBody struct {
	Client json.RawMessage `json:"client"`
	Seq    sequencer.Seq   `json:"sequenceNumber"`
}

type proposal struct {
	Seq   sequencer.Seq   `json:"sequenceNumber"`
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

type value struct {
	key  string
	body json.RawMessage
}

type approvedValue struct {
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Approval sequencer.Seq   `json:"approvalSequenceNumber"`
	Commit   sequencer.Seq   `json:"commitSequenceNumber"`
	Seq      sequencer.Seq   `json:"sequenceNumber"`
}

type attributes struct {
	MSN sequencer.Seq `json:"minimumSequenceNumber"`
	Seq sequencer.Seq `json:"sequenceNumber"`
}

// The blobs of .protocol.
const (
	attributesName = "attributes"
	membersName    = "quorumMembers"
	proposalsName  = "quorumProposals"
	valuesName     = "quorumValues"
)

// newProtocol is the state of a document that begins after op seq, with these quorum
// values: nobody is connected, so all there is has been seen by all.
func newProtocol(values json.RawMessage, seq sequencer.Seq) (*protocol, error) {
	p := &protocol{Seq: seq, MSN: seq}
	if len(values) == 0 {
		return p, nil
	}
	if err := checkShape(values); err != nil {
		return nil, err
	}
	pairs, err := parsePairs(values)
	if err != nil {
		return nil, fmt.Errorf("%w: values must be an array of [key, value]", ErrBadSummary)
	}
	for _, pair := range pairs {
		var v value
		if err := json.Unmarshal(pair[0], &v.key); err != nil || pair[1][0] != '{' {
			return nil, fmt.Errorf("%w: values must pair a string with an object", ErrBadSummary)
		}
		v.body = pair[1]
		p.setValue(v)
	}
	return p, nil
}

// apply advances the state by one op, the next one.
func (p *protocol) apply(op sequencer.SequencedOp) error {
	if op.Seq != p.Seq+1 {
		return fmt.Errorf("%w: op %d follows %d", store.ErrCorrupt, op.Seq, p.Seq)
	}
	p.Seq = op.Seq
	switch op.Type {
	case sequencer.TypeJoin:
		var join struct {
			ClientID string          `json:"clientId"`
			Detail   json.RawMessage `json:"detail"`
		}
		if err := unmarshalTwice(op.Data, &join); err != nil {
			return fmt.Errorf("%w: join %d: %w", store.ErrCorrupt, op.Seq, err)
		}
		p.removeMember(join.ClientID)
		p.members = append(p.members, member{join.ClientID, memberBody{join.Detail, op.Seq}})
	case sequencer.TypeLeave:
		var clientID string
		if err := unmarshalTwice(op.Data, &clientID); err != nil {
			return fmt.Errorf("%w: leave %d: %w", store.ErrCorrupt, op.Seq, err)
		}
		p.removeMember(clientID)
	case sequencer.TypePropose:
		next := proposal{Seq: op.Seq}
		// A client wrote this: one that is no proposal is none.
		if err := unmarshalTwice(op.Contents, &next); err == nil {
			next.Seq = op.Seq
			p.proposals = append(p.proposals, next)
		}
	}
	p.advance(op.MSN)
	return nil
}

// advance accepts what every client has seen: a proposal becomes a value with the
// first op whose msn has reached it.
func (p *protocol) advance(msn sequencer.Seq) {
	p.MSN = max(p.MSN, msn)
	for len(p.proposals) > 0 && p.proposals[0].Seq <= p.MSN {
		a := p.proposals[0]
		p.proposals = p.proposals[1:]
		body, err := encodeJSON(approvedValue{Key: a.Key, Value: a.Value, Approval: p.Seq, Commit: -1, Seq: a.Seq})
		if err != nil {
			continue // Value came out of a parser; it encodes
		}
		p.setValue(value{a.Key, body})
	}
}

func (p *protocol) removeMember(clientID string) {
	p.members = slices.DeleteFunc(p.members, func(m member) bool { return m.clientID == clientID })
}

func (p *protocol) setValue(v value) {
	if i := slices.IndexFunc(p.values, func(w value) bool { return w.key == v.key }); i >= 0 {
		p.values[i] = v
		return
	}
	p.values = append(p.values, v)
}

// addProtocol adds the tree .protocol.
func (b *batch) addProtocol(ctx context.Context, p *protocol) (entry, error) {
	members, proposals, values := []any{}, []any{}, []any{}
	for _, m := range p.members {
		members = append(members, []any{m.clientID, m.body})
	}
	for _, q := range p.proposals {
		proposals = append(proposals, []any{q.Seq, q, []any{}})
	}
	for _, v := range p.values {
		values = append(values, []any{v.key, v.body})
	}
	var entries []entry
	for _, blob := range []struct {
		name string
		v    any
	}{
		{attributesName, attributes{MSN: p.MSN, Seq: p.Seq}},
		{membersName, members},
		{proposalsName, proposals},
		{valuesName, values},
	} {
		content, err := encodeJSON(blob.v)
		if err != nil {
			return entry{}, fmt.Errorf("encode %s: %w", blob.name, err)
		}
		e, err := b.addBlob(ctx, content)
		if err != nil {
			return entry{}, err
		}
		entries = append(entries, e.as(blob.name))
	}
	return b.addTree(ctx, entries)
}

// loadProtocol reads back what addProtocol stored.
func (d *Document) loadProtocol(ctx context.Context, root tree) (*protocol, error) {
	at, _ := root.find(protocolName)
	t, err := d.loadTree(ctx, at.ID)
	if err != nil {
		return nil, missing(err)
	}
	blobs := map[string][]byte{}
	for _, e := range t.Entries {
		if blobs[e.Name], err = d.load(ctx, blobObject, e.ID); err != nil {
			return nil, missing(err)
		}
	}
	p := &protocol{}
	var a attributes
	members, err1 := parsePairs(blobs[membersName])
	values, err2 := parsePairs(blobs[valuesName])
	var proposals [][]json.RawMessage
	errs := []error{err1, err2, json.Unmarshal(blobs[attributesName], &a), json.Unmarshal(blobs[proposalsName], &proposals)}
	p.Seq, p.MSN = a.Seq, a.MSN
	for _, pair := range members {
		var m member
		errs = append(errs, json.Unmarshal(pair[0], &m.clientID), json.Unmarshal(pair[1], &m.body))
		p.members = append(p.members, m)
	}
	for _, triple := range proposals {
		var q proposal
		if len(triple) != 3 {
			errs = append(errs, errors.New("a proposal is not [seq, proposal, []]"))
			break
		}
		errs = append(errs, json.Unmarshal(triple[1], &q))
		p.proposals = append(p.proposals, q)
	}
	for _, pair := range values {
		v := value{body: pair[1]}
		errs = append(errs, json.Unmarshal(pair[0], &v.key))
		p.values = append(p.values, v)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: .protocol: %w", store.ErrCorrupt, err)
	}
	return p, nil
}

// parsePairs parses [[a, b], ...].
func parsePairs(b []byte) ([][2]json.RawMessage, error) {
	var lists [][]json.RawMessage
	if err := json.Unmarshal(b, &lists); err != nil {
		return nil, err
	}
	pairs := make([][2]json.RawMessage, 0, len(lists))
	for _, l := range lists {
		// Unmarshal would fill a pair from a longer or shorter list.
		if len(l) != 2 {
			return nil, errors.New("not a pair")
		}
		pairs = append(pairs, [2]json.RawMessage{l[0], l[1]})
	}
	return pairs, nil
}

// unmarshalTwice decodes JSON that is carried in a JSON string.
func unmarshalTwice(b json.RawMessage, v any) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	return json.Unmarshal([]byte(s), v)
}
