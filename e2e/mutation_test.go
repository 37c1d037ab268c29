//go:build mutation

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutations take one protection each out of the source: a field of the associated data,
// a link of the chain, a comparison, a look at the lease. For each, a test must fail.
var mutations = []struct {
	name, file, old, new string
	tests                string // that are run: of the file's package, or of the one in front
}{
	{"commitment of a header is not compared", "internal/envelope/derive.go", "if subtle.ConstantTimeCompare(commitment, stored) != 1 {", "if subtle.ConstantTimeCompare(commitment, stored) != 1 && len(stored) == 0 {", "."},
	{"fields are not length-prefixed", "internal/envelope/derive.go", "b = binary.BigEndian.AppendUint32(b, uint32(len(field)))", "_ = binary.BigEndian", "."},
	{"context is not bound", "internal/envelope/derive.go", "for _, c := range context {", "for _, c := range context[:0] {", "."},
	{"keys are left in hashes", "internal/envelope/derive.go", "	mac.Write(zeros[:])\n", "	_ = zeros\n", "./internal/custody GoneFromMemory"}, // seen only where the memory is searched
	{"records are not bound to their header", "internal/envelope/segment.go", "d.b = appendField(d.b[:d.fixed], recordHeader)", "d.b = d.b[:d.fixed]", "."},
	{"records are not bound to their segment", "internal/envelope/segment.go", "b := binding(h.b, nil)", "b := binding(nil, nil)", "."},
	{"the link before is not compared", "internal/envelope/segment.go", " && rec.prev() == r.chain", "", "."},
	{"the index is not compared", "internal/envelope/segment.go", "rec.Index() == r.records && ", "", "."},
	{"the first op is not compared", "internal/envelope/segment.go", " && rec.FirstSeq() == next", " && next == next", "."},
	{"segments and objects of other documents open", "internal/envelope/keys.go", "key == nil || place.Resource != at.Resource || place.Document != at.Document {", "key == nil {", "."},
	{"the tag is not in the chain", "internal/envelope/record.go", "copy(b[recordHeaderBytes:], r.b[len(r.b)-tagBytes:])", "", "."},
	{"chunks are not bound to their index", "internal/envelope/object.go", "binary.BigEndian.AppendUint32(nil, uint32(index))", "binary.BigEndian.AppendUint32(nil, uint32(0*index))", "."},
	{"the last chunk is not bound", "internal/envelope/object.go", "	if last {\n		flag = 1", "	if last {\n		flag = 0", "."},
	{"objects are not bound to their name", "internal/envelope/object.go", "b := binding(header, [][]byte{name[:]})", "b := binding(header, nil)", "."},
	{"document keys of other documents open", "internal/envelope/keys.go", "if at.Resource != r || at.Document != d {", "if false {", "."},
	{"the root commitment forgets the epoch", "internal/envelope/keys.go", "binary.BigEndian.AppendUint32(nil, epoch)", "binary.BigEndian.AppendUint32(nil, 0*epoch)", "."},
	{"retained root keys forget the generation", "internal/envelope/retention.go", ", binary.BigEndian.AppendUint64(nil, p.Generation)}", "}", "."},
	{"the next root key forgets its resource", "internal/envelope/retention.go", "plaintext, r[:], binary", "plaintext, binary", "."},
	{"an anchor's MAC is not compared", "internal/envelope/anchor.go", "!hmac.Equal(mac, stored)", "!hmac.Equal(mac, mac) || len(stored) == 0", "."},

	{"the root key is not compared with its commitment", "internal/custody/keeper.go", "return subtle.ConstantTimeCompare(c[:], rec.Commitment) == 1", "return subtle.ConstantTimeCompare(c[:], rec.Commitment) < 2", "Commit|Mismatch|Tamper|Swap|Lie|Forged|Update|Check"},
	{"the lease is not looked at", "internal/custody/document.go", "if !d.lease.valid() {", "if false {", "Lease|Pause|Stuck|Expir|Grace|Outage|Keeper"},
	{"a lease that ran out is extended", "internal/custody/lease.go", "	if l.valid() {\n		l.deadline.Store", "	if true {\n		l.deadline.Store", "Lease|Pause|Stuck|Resum"},
	{"segments need not follow each other", "internal/custody/log.go", "case next.Prev != tail.chain || next.PrevRecords != tail.records:", "case false:", "Log|Splice|Segment|Writer|Damaged"},
	{"terms may go back", "internal/custody/log.go", "case next.Term < before.Term:", "case false:", "TermsDoNot"},
	{"an epoch that is closed takes document keys", "internal/custody/epoch.go", "int(h[0])%closedShards), Expect: store.Absent}", "int(h[0])%closedShards), Expect: store.Anything}", "Epoch|DocumentMade"},
	{"what wrapped an old root key stays", "internal/custody/epoch.go", "		gone.Wrapped = nil\n", "", "Epoch"},
	{"retention keys are not destroyed", "internal/custody/retention.go", "	r.oldest, r.key = oldest, key\n	return nil\n", "	return nil\n", "Retention|Scenario39"},
	{"the head is not compared with its anchor", "internal/custody/anchor.go", "case found.Head < at.Seq:", "case false:", "Scenario38"},
	{"an open document goes on under the key before", "internal/custody/document_rotation.go", "		d.writer.segment = nil // the next record begins one\n", "		_ = d.writer\n", "DocumentKey"},
	{"an older document key is taken again", "internal/custody/document_rotation.go", " || !key.Has(at.KeyID, d.at.KeyID) {", " {", "DocumentKey"},
	{"a document's older keys are lost", "internal/envelope/keys.go", "n = append(append(append(n, older...), id[:]...), b[:keyBytes]...)", "n = append(append(n, id[:]...), b[:keyBytes]...)", "."},
	{"a file without a version of the service key is taken", "internal/custody/service.go", "		if !ok {\n			return fmt.Errorf(\"%w: the data", "		if !ok {\n			continue\n		}\n		if false {\n			return fmt.Errorf(\"%w: the data", "ServiceKey"},
	{"nodes that lack a version of the service key are not waited for", "internal/custody/service.go", "len(lacking) > 0 {", "false {", "ServiceKey"},
	{"root keys stay under the service key's version before", "internal/custody/service.go", "err = p.k.rewrapOwn(ctx, envelope.ResourceID(id)); err == nil {", "err = error(nil); err == nil && id != nil {", "ServiceKey"},
	{"a version of the service key goes before copies are too old", "internal/custody/service.go", "over := !time.Now().Before(s.goodUntil(s.inUse[1].Since))", "over := true", "ServiceKey"},
	{"a version of the service key goes with values under it", "internal/custody/service.go", "err != nil || !over || !s.clean {", "err != nil || !over {", "ServiceKey"},
	{"the file of another service key is taken", "internal/envelope/service.go", "err != nil || !same || ", "err != nil || !same && false || ", "ServiceKey"},
	{"data prove: records need not follow each other", "internal/custody/inspect.go", "case rec.Index() > 0 && begun && !rec.Follows(before.Link()):", "case false:", "./internal/app TestInspect"},
	{"data prove: values of other documents pass", "internal/custody/inspect.go", "if at.Document != i.at {", "if false {", "./internal/app TestInspect"},
	{"data prove: document keys may lie anywhere", "internal/custody/inspect.go", "key != documentKeyRow(*i.service, at.Resource, at.Document) {", "false {", "./internal/app TestInspect"},
	{"data prove: rows need not open", "internal/custody/inspect.go", "	plain, err := i.service.OpenRow(string(key.Table), key.Partition, key.Name, s)\n	if err != nil {\n		return err\n", "	plain, err := i.service.OpenRow(string(key.Table), key.Partition, key.Name, s)\n	if err != nil {\n		return nil\n", "./internal/app TestInspect"},
	{"a drill keeps its promise whatever it measured", "internal/provider/fluidrelay/drill.go", "d.Enforced.Sub(d.Started) <= enforceWithin && d.Recovered.Sub(d.Permitted) <= recoverWithin", "enforceWithin > recoverWithin", "Drill"},
	{"the signature of a drill's report is not verified", "internal/cli/cmk_verify.go", "decoded[2], public); err != nil {", "decoded[2], public); err != nil && false {", "VerifyReport"},
	{"a drill's report says what was not signed", "internal/cli/cmk_verify.go", "if !sameJSON(value, said[name]) {", "if false && !sameJSON(value, said[name]) {", "VerifyReport"},
	{"any signature makes a drill's report", "internal/cli/cmk_verify.go", " || header.Type != drillReportType {", " {", "VerifyReport"},
	{"the link is not compared with its anchor", "internal/custody/anchor.go", " || rec.Link() != at.Chain {", " {", "Scenario38"},
}

func TestMutationsAreNoticed(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	failed := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			path := filepath.Join(root, m.file)
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("%s has %q %d times: bring the list up to date", m.file, m.old, n)
			}
			mutant := filepath.Join(dir, "mutant.go")
			if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
			if err != nil {
				t.Fatal(err)
			}
			overlayFile := filepath.Join(dir, "overlay.json")
			if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			pkg, tests, found := strings.Cut(m.tests, " ")
			if !found {
				pkg, tests = "./"+filepath.Dir(m.file), m.tests
			}
			c := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-timeout", "120s", "-overlay", overlayFile, "-run", tests, pkg)
			c.Dir = root
			out, err := c.CombinedOutput()
			killers := failed.FindAllStringSubmatch(string(out), -1)
			switch {
			case err == nil:
				t.Errorf("no test notices that %s", m.name)
			case len(killers) == 0 && !strings.Contains(string(out), "panic:"):
				t.Errorf("it was not tested: %s", out)
			case len(killers) == 0:
				t.Log("noticed by a panic")
			default:
				t.Logf("noticed by %s", killers[0][1])
			}
		})
	}
}
