package relay

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/tidelock/tidelock/internal/store"
)

// A document that comes from another service keeps its id, by which applications
// know it, and the sequence number of the summary it comes with, which its contents
// refer to. What asks for that is a create call whose token names the id that the
// body gives; of all tokens only those that create under a new, random id name none.
// Source: copy-data of the Fluid Framework repository's self-hosting tools.

// maxDocumentIDBytes bounds an id that a client chose.
const maxDocumentIDBytes = 128

var (
	errIDExists  = &restError{http.StatusConflict, "A document with this id exists already. Nothing was changed."}
	errIDDeleted = &restError{http.StatusConflict, "A document with this id was deleted, and ids are not used again. Nothing was changed."}
)

// requestedID is the id that a create call is to use; empty for a new one. An id in
// the body whose token names none is ignored, as applications' backends sign such
// tokens for whoever may create documents, not for this or that one.
func requestedID(by claims, id string) (string, error) {
	switch {
	case id == "" || by.DocumentID == "":
		return "", nil
	case id != by.DocumentID:
		return "", errOtherDocument[restFace]
	case !by.has(summaryWrite):
		return "", &authError{http.StatusForbidden, "Permission denied. Insufficient scopes. Required scopes: " + strings.Join(toSummarize, ",")}
	case !isDocumentID(id):
		return "", badRequestf("The id must be 1 to %d letters, digits, hyphens, underscores or dots, and begin with a letter or digit.", maxDocumentIDBytes)
	}
	return id, nil
}

// isDocumentID says whether an id is fit for URLs, names of resources and logs.
func isDocumentID(id string) bool {
	if id == "" || len(id) > maxDocumentIDBytes || strings.ContainsRune("-_.", rune(id[0])) {
		return false
	}
	return !strings.ContainsFunc(id, func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune("-_.", c)
	})
}

// createAs makes a document under a chosen id, whose ops begin after
// in.SequenceNumber; errIDExists, errIDDeleted, and the errors of create. Nothing of
// it is there unless the error is nil.
func (s *Server) createAs(ctx context.Context, t Tenant, id string, in newDocument) error {
	// Before the work; whether the id is free when it is done, the store says.
	if err := s.checkFree(ctx, t, id); err != nil {
		return err
	}
	err := s.write(ctx, t, id, in)
	if errors.Is(err, store.ErrConflict) {
		return errIDExists
	}
	return err
}

// checkFree says why an id cannot be given to a document; nil if it can.
func (s *Server) checkFree(ctx context.Context, t Tenant, id string) error {
	r, _, err := s.recordOrTombstone(ctx, t.ID, id)
	switch {
	case errors.Is(err, errUnknownDocument):
		return nil
	case err != nil:
		return err
	case r.deleted():
		return errIDDeleted
	}
	return errIDExists
}
