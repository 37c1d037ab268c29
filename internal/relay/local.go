package relay

import "net/http"

// Local mode is for developers: unmodified clients with a connection of type
// "local", and those of Fluid's own development server, Tinylicious, find a tenant of
// a fixed name that takes tokens at their word. What a token says of document, user
// and scopes still counts; its signature and times do not, and it can be used again.
// Everything else is as for other tenants: ops are durable and all is sealed.
//
// Such clients speak a dialect of their own on the storage face: they read a summary
// as commit, tree and blobs, and write it as blobs and trees. Its documents are flat
// (see package history), so they cannot be served in the other dialect.

// localTenant returns the tenant of local mode with this id.
func (s *Server) localTenant(id string) (Tenant, bool) {
	for _, t := range s.c.Local {
		if t.ID == id {
			return t, true
		}
	}
	return Tenant{}, false
}

// readClaims reads a token and checks its claims, see checkClaims.
func (s *Server) readClaims(raw, tenantID, documentID string, face tokenFace) (claims, error) {
	if _, local := s.localTenant(tenantID); local {
		return matchClaims(raw, tenantID, documentID, face)
	}
	return checkClaims(raw, tenantID, documentID, face)
}

// addLocalRoutes routes what is only there in local mode, and there only for its
// tenants: to others it looks unrouted.
func (s *Server) addLocalRoutes(mux *http.ServeMux) {
	if len(s.c.Local) == 0 {
		return
	}
	for i := range localRoutes {
		row := &localRoutes[i]
		mux.HandleFunc(row.pattern(), s.observed(row.pattern(), func(w *answer, r *http.Request) {
			if _, local := s.localTenant(r.PathValue("tenant")); !local {
				notFound(w, r)
				return
			}
			s.serveREST(row, w, r)
		}))
	}
}

// remoteOnly refuses a call of the other dialect.
func (s *Server) remoteOnly(c *call) error {
	if _, local := s.localTenant(c.tenant.ID); local {
		return &restError{http.StatusNotFound, `Tenant "` + c.tenant.ID + `" has no git/summaries: connect with type "local".`}
	}
	return nil
}
