package relay

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Conversations of clients with the service, both ways, in testdata/wire. A line "a> …"
// is what client a sends, as unmodified clients do: an event, or a whole frame. Lines
// "a< …" are what each client is sent upon it, in order; -update rewrites these. The
// ids that are different each time have names: $ID the document, $A to $C the clients,
// $HEAD its newest version, $TREE an uploaded summary, $TOKEN and $READTOKEN tokens.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				c := newConversation(t, r)
				got := c.run(string(want))
				if *updateGolden {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if got != string(want) {
					t.Errorf("%s:\n got %s\nwant %s", file, got, want)
				}
			})
		})
	}
}

type conversation struct {
	t       *testing.T
	r       *rig
	clients map[string]*client
	known   map[string]string // what names stand for
	names   map[string]string // and the other way round, for what comes
}

func newConversation(t *testing.T, r *rig) *conversation {
	id := r.create()
	var up struct{ ID string }
	r.call("POST", "/repos/t1/git/summaries", r.token(id), `{"type":"channel","entries":[]}`).decode(t, 201, &up)
	c := &conversation{t: t, r: r, clients: map[string]*client{}, names: map[string]string{}, known: map[string]string{
		"$ID": id, "$TREE": up.ID, "$HEAD": r.head(id), "$TOKEN": r.token(id), "$READTOKEN": r.token(id, withScopes("doc:read")),
	}}
	c.names[id], c.names[up.ID], c.names[c.known["$HEAD"]] = "$ID", "$TREE", "$FIRST"
	return c
}

func (c *conversation) run(script string) string {
	var out strings.Builder
	for line := range strings.Lines(script) {
		if who, _, _ := strings.Cut(line, " "); strings.HasSuffix(who, "<") {
			continue // what came the last time
		}
		out.WriteString(line)
		c.step(strings.TrimSuffix(line, "\n"))
		synctest.Wait()
		for _, who := range []string{"a", "b", "c"} {
			if c.clients[who] != nil {
				c.take(who, &out)
			}
		}
	}
	for _, one := range c.clients {
		one.close()
	}
	return out.String()
}

func (c *conversation) step(line string) {
	who, what, _ := strings.Cut(line, " ")
	if what == "" || who == "#" {
		return
	}
	if who == "wait" {
		d, err := time.ParseDuration(what)
		if err != nil {
			c.t.Fatal(err)
		}
		time.Sleep(d)
		return
	}
	c.known["$HEAD"] = c.r.head(c.known["$ID"])
	for _, name := range []string{"$READTOKEN", "$TOKEN", "$ID", "$HEAD", "$TREE", "$A", "$B", "$C"} {
		what = strings.ReplaceAll(what, name, c.known[name])
	}
	if who == "service>" {
		id := c.known["$ID"]
		c.r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", c.r.token(id), `{"signalContent":{"contents":`+what+`}}`).want(c.t, 200, "OK")
		return
	}
	who = strings.TrimSuffix(who, ">")
	if c.clients[who] == nil {
		c.clients[who] = c.r.dial()
	}
	if strings.HasPrefix(what, "[") {
		what = "42" + what
	}
	c.clients[who].write(what)
}

var randomID = regexp.MustCompile(uuidPattern.String() + `|\b[0-9a-f]{40}\b`)

// take writes down what a client was sent.
func (c *conversation) take(who string, out *strings.Builder) {
	for _, e := range c.clients[who].all() {
		line := "[" + string(encode(e.name))
		for _, arg := range e.args {
			line += "," + string(arg)
		}
		line += "]"
		if e.name == acknowledgement {
			line = string(e.args[0])
		}
		if e.name == "connect_document_success" && c.known["$"+strings.ToUpper(who)] == "" {
			id := uuidPattern.FindString(line[strings.Index(line, `"clientId":"`):])
			c.known["$"+strings.ToUpper(who)] = id
		}
		line = randomID.ReplaceAllStringFunc(line, func(id string) string {
			if strings.Trim(id, "0-48") == "" {
				return id // one of the script's own
			}
			if c.names[id] == "" {
				kind := "client"
				if len(id) == 40 {
					kind = "object"
				}
				c.names[id] = fmt.Sprintf("%s-%d", kind, len(c.names))
			}
			return c.names[id]
		})
		fmt.Fprintf(out, "%s< %s\n", who, line)
	}
}
