package relay

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/history"
)

// onDocument runs f on the document of a storage call.
func (s *Server) onDocument(c *call, f func(*document) error) error {
	d, release, err := s.open(c.r.Context(), c.tenant, c.documentID())
	if err != nil {
		return err
	}
	defer release()
	return f(d)
}

// cacheable lets the client itself keep what has its content as its name. Never a
// shared cache: it would serve whoever asks, without a token, and go on after the
// key was revoked. disableCache, whatever its value, forbids it.
func cacheable(c *call) {
	if !c.r.URL.Query().Has("disableCache") {
		c.w.Header().Set("Cache-Control", "private, max-age=31536000")
	}
}

// gitObject points to an object; url is part of the shape and read by nobody.
type gitObject struct {
	SHA string `json:"sha"`
	URL string `json:"url"`
}

// postBlob answers POST /repos/{tenant}/git/blobs. Source for the shapes here: the
// Fluid gitresources package.
func (s *Server) postBlob(c *call) error {
	var in struct {
		Content  *string `json:"content"`
		Encoding string  `json:"encoding"`
	}
	if err := decodeBody(c.body, &in); err != nil {
		return err
	}
	if in.Content == nil {
		return badRequestf("The request body has no content.")
	}
	content, err := history.DecodeContent(*in.Content, in.Encoding)
	if err != nil {
		return badRequestf("The blob cannot be stored: %v.", err)
	}
	return s.onDocument(c, func(d *document) error {
		id, err := d.store().PutBlob(c.r.Context(), content)
		if err != nil {
			return err
		}
		answerJSON(c.w, http.StatusCreated, gitObject{SHA: id})
		return nil
	})
}

func (s *Server) getBlob(c *call) error {
	return s.onDocument(c, func(d *document) error {
		id := c.r.PathValue("sha")
		// All who read it hold one copy: a reader who stops reading keeps what he was given.
		content, release, err := d.store().Blob(c.r.Context(), id)
		if err != nil {
			return err
		}
		defer release()
		cacheable(c)
		begin := fmt.Sprintf(`{"sha":"%s","url":"","size":%d,"content":"`, id, len(content))
		const end = `","encoding":"base64"}`
		answerHeader(c.w, http.StatusOK, jsonType, len(begin)+base64.StdEncoding.EncodedLen(len(content))+len(end))
		_, _ = io.WriteString(c.w, begin) // the client went away: nobody to tell
		_ = history.WriteBase64(c.w, content)
		_, _ = io.WriteString(c.w, end)
		return nil
	})
}

type treeEntry struct {
	Path string `json:"path"`
	Mode string `json:"mode"`
	SHA  string `json:"sha"`
	Size int64  `json:"size"`
	Type string `json:"type"`
	URL  string `json:"url"`
}

func (s *Server) getTree(c *call) error {
	return s.onDocument(c, func(d *document) error {
		id := c.r.PathValue("sha")
		tree, err := d.store().Tree(c.r.Context(), id, c.r.URL.Query().Get("recursive") == "1")
		if err != nil {
			return err
		}
		cacheable(c)
		answerTree(c, http.StatusOK, id, tree)
		return nil
	})
}

func answerTree(c *call, status int, id string, tree []history.TreeEntry) {
	entries := make([]treeEntry, 0, len(tree))
	for _, e := range tree {
		mode := "100644"
		if e.Type == "tree" {
			mode = "040000"
		}
		entries = append(entries, treeEntry{Path: e.Path, Mode: mode, SHA: e.ID, Size: e.Bytes, Type: e.Type})
	}
	answerJSON(c.w, status, struct {
		gitObject
		Tree []treeEntry `json:"tree"`
	}{gitObject{SHA: id}, entries})
}

// gitPerson is who a commit is by: the service.
type gitPerson struct {
	Name  string    `json:"name"`
	Email string    `json:"email"`
	Date  time.Time `json:"date"`
}

type gitCommit struct {
	URL       string    `json:"url"`
	Author    gitPerson `json:"author"`
	Committer gitPerson `json:"committer"`
	Message   string    `json:"message"`
	Tree      gitObject `json:"tree"`
}

func commitOf(v history.Commit) gitCommit {
	by := gitPerson{Name: "Tidelock", Email: "", Date: v.Date}
	return gitCommit{Author: by, Committer: by, Message: v.Message, Tree: gitObject{SHA: v.Tree}}
}

func parentsOf(v history.Commit) []gitObject {
	parents := make([]gitObject, 0, len(v.Parents))
	for _, id := range v.Parents {
		parents = append(parents, gitObject{SHA: id})
	}
	return parents
}

func (s *Server) getCommit(c *call) error {
	return s.onDocument(c, func(d *document) error {
		v, err := d.store().Commit(c.r.Context(), c.r.PathValue("sha"))
		if err != nil {
			return err
		}
		cacheable(c)
		answerJSON(c.w, http.StatusOK, struct {
			SHA string `json:"sha"`
			gitCommit
			Parents []gitObject `json:"parents"`
		}{v.ID, commitOf(v), parentsOf(v)})
		return nil
	})
}

// getCommits answers GET /repos/{tenant}/commits?sha=&count=: the versions of the
// document, newest first. sha is the document's id, or a commit's.
func (s *Server) getCommits(c *call) error {
	query := c.r.URL.Query()
	count, err := strconv.Atoi(query.Get("count"))
	if err != nil || count < 1 {
		return badRequestf("count must be a number of commits, at least 1.")
	}
	type version struct {
		gitObject
		Commit  gitCommit   `json:"commit"`
		Parents []gitObject `json:"parents"`
	}
	return s.onDocument(c, func(d *document) error {
		from := query.Get("sha")
		if from == c.documentID() {
			from = d.head()
		}
		commits, err := d.store().Commits(c.r.Context(), from, count)
		if err != nil {
			return err
		}
		versions := make([]version, 0, len(commits))
		for _, v := range commits {
			versions = append(versions, version{gitObject{SHA: v.ID}, commitOf(v), parentsOf(v)})
		}
		answerJSON(c.w, http.StatusOK, versions)
		return nil
	})
}

// postSummary answers POST /repos/{tenant}/git/summaries with the id of a tree.
// Nothing about the document changes before a summarize op names it.
func (s *Server) postSummary(c *call) error {
	if err := s.remoteOnly(c); err != nil {
		return err
	}
	return s.onDocument(c, func(d *document) error {
		id, err := d.store().UploadSummary(c.r.Context(), c.body)
		if err != nil {
			return err
		}
		answerJSON(c.w, http.StatusCreated, struct {
			ID string `json:"id"`
		}{id})
		return nil
	})
}

// getSummary answers GET /repos/{tenant}/git/summaries/{version}: "latest" or a
// commit id.
func (s *Server) getSummary(c *call) error {
	if err := s.remoteOnly(c); err != nil {
		return err
	}
	return s.onDocument(c, func(d *document) error {
		version := c.r.PathValue("version")
		latest := version == "latest"
		if latest {
			version = d.head()
		}
		summary, err := d.store().Summary(c.r.Context(), version)
		if err != nil {
			return err
		}
		if !latest {
			cacheable(c)
		}
		c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
		c.w.WriteHeader(http.StatusOK)
		if err := summary.Write(c.r.Context(), c.w); err != nil {
			// Too late for a status: cut the connection, so that nobody takes the half for the whole.
			s.c.Log.WarnContext(c.r.Context(), "summary cut short", "tenant_id", c.tenant.ID, "document_id", c.documentID(),
				"correlation_id", c.w.Header().Get(correlationHeader), "err", err)
			panic(http.ErrAbortHandler)
		}
		return nil
	})
}

// postTree answers POST /repos/{tenant}/git/trees with the tree as it is stored.
// Nothing about the document changes before a summarize op names it.
func (s *Server) postTree(c *call) error {
	return s.onDocument(c, func(d *document) error {
		id, err := d.store().UploadTree(c.r.Context(), c.body)
		if err != nil {
			return err
		}
		var tree []history.TreeEntry
		if tree, err = d.store().Tree(c.r.Context(), id, false); err != nil {
			return err
		}
		answerTree(c, http.StatusCreated, id, tree)
		return nil
	})
}

// gitRef is a ref. Source: IRef of the Fluid gitresources package.
type gitRef struct {
	Ref    string `json:"ref"`
	URL    string `json:"url"`
	Object struct {
		Type string `json:"type"`
		gitObject
	} `json:"object"`
}

// headOf is the one ref of a document. Clients cannot move it: the newest version is
// what the log says it is.
func headOf(c *call, d *document) gitRef {
	ref := gitRef{Ref: "refs/heads/" + c.documentID()}
	ref.Object.Type, ref.Object.SHA = "commit", d.head()
	return ref
}

// getRefs answers GET /repos/{tenant}/git/refs.
func (s *Server) getRefs(c *call) error {
	return s.onDocument(c, func(d *document) error {
		answerJSON(c.w, http.StatusOK, []gitRef{headOf(c, d)})
		return nil
	})
}

// getRef answers GET /repos/{tenant}/git/refs/heads/{id}; tools write the slash as %2F.
func (s *Server) getRef(c *call) error {
	return s.onDocument(c, func(d *document) error {
		ref := headOf(c, d)
		if "refs/"+c.r.PathValue("ref") != ref.Ref {
			return history.ErrNotFound
		}
		answerJSON(c.w, http.StatusOK, ref)
		return nil
	})
}

// deleteSummaries answers DELETE /repos/{tenant}/git/summaries. There whoever may write
// destroys all that a document was, and leaves the document. Here that takes the right to delete
// the document, which is what it does: neither is anything without the other.
func (s *Server) deleteSummaries(c *call) error {
	switch soft := c.r.Header.Get("Soft-Delete"); {
	case !c.claims.has(docDelete):
		return errNoDeleteScope
	case strings.EqualFold(soft, "true"):
		return &restError{http.StatusNotImplemented, "Nothing was deleted: what is deleted here cannot be brought back. Send Soft-Delete: false to delete the document for good."}
	case soft != "" && !strings.EqualFold(soft, "false"):
		return badRequestf("Soft-Delete must be true or false.")
	}
	if _, _, err := s.remove(c.r.Context(), c.tenant, c.documentID()); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
