package relay

import (
	"testing"
	"testing/synctest"

	"github.com/tidelock/tidelock/internal/sequencer"
)

func TestFullInboxHoldsItsSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, ended := newInbox(), make(chan struct{})
		big := submitCommand{ops: []sequencer.Op{{Contents: make([]byte, maxInboxBytes)}}}
		if !q.put(big, ended) {
			t.Fatal("an empty inbox refused a command")
		}
		second := make(chan bool, 2)
		go func() { second <- q.put(big, ended) }()
		synctest.Wait()
		select {
		case <-second:
			t.Fatal("a full inbox took another command")
		default:
		}
		<-q.ready
		if n := len(q.take()); n != 1 {
			t.Fatalf("took %d commands, want 1", n)
		}
		if !<-second {
			t.Fatal("the sender was not let in after there was space")
		}
		go func() { second <- q.put(big, ended) }()
		synctest.Wait()
		close(ended)
		if <-second {
			t.Error("an ended document's full inbox took a command")
		}
	})
}
