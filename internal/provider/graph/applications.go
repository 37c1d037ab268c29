package graph

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

// application is an application as Graph shows it.
type application struct {
	ID          string     `json:"id"`
	AppID       string     `json:"appId"`
	DisplayName string     `json:"displayName"`
	Created     time.Time  `json:"createdDateTime"`
	Audience    string     `json:"signInAudience"`
	URIs        []string   `json:"identifierUris"`
	Passwords   []password `json:"passwordCredentials"`
	Keys        []key      `json:"keyCredentials"`
	// Administrator is ours: whether it may manage the directory's applications.
	Administrator bool `json:"administrator"`
}

type password struct {
	ID    string     `json:"keyId"`
	Name  string     `json:"displayName"`
	Hint  string     `json:"hint"`
	Start time.Time  `json:"startDateTime"`
	End   *time.Time `json:"endDateTime"` // null: never
	Text  *string    `json:"secretText"`  // once, when it is made
}

type key struct {
	ID         string    `json:"keyId"`
	Name       string    `json:"displayName"`
	Thumbprint string    `json:"customKeyIdentifier"` // SHA-1, base64
	Type       string    `json:"type"`
	Usage      string    `json:"usage"`
	Start      time.Time `json:"startDateTime"`
	End        time.Time `json:"endDateTime"`
	Key        []byte    `json:"key"`
}

func viewPassword(s entra.SecretInfo) password {
	p := password{ID: s.ID, Name: s.Name, Hint: s.Hint, Start: s.Created}
	if !s.Expires.IsZero() {
		p.End = &s.Expires
	}
	return p
}

func viewApplication(d entra.Details) application {
	a := application{
		ID: d.ObjectID, AppID: d.ClientID, DisplayName: d.Name, Created: d.Created.Truncate(time.Second), Audience: "AzureADMyOrg",
		URIs: []string{}, Passwords: []password{}, Keys: []key{}, Administrator: d.Administrator,
	}
	for _, s := range d.Secrets {
		a.Passwords = append(a.Passwords, viewPassword(s))
	}
	for _, c := range d.Certificates {
		a.Keys = append(a.Keys, key{
			ID: c.ID, Name: c.Name, Thumbprint: base64.StdEncoding.EncodeToString(c.Thumbprint), Type: "AsymmetricX509Cert", Usage: "Verify",
			Start: c.NotBefore, End: c.Expires, Key: c.DER,
		})
	}
	return a
}

// findApplication is find for what is no managed identity.
func (h *handler) findApplication(ctx context.Context, c *call) (entra.Details, error) {
	d, err := h.find(ctx, c)
	if err == nil && d.Kind != entra.KindApplication {
		err = noObject(c.r.PathValue("id"))
	}
	return d, err
}

func (h *handler) listApplications(ctx context.Context, c *call) (answer, error) {
	some, err := h.filtered(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var views []application
	for _, d := range some {
		if d.Kind == entra.KindApplication {
			views = append(views, viewApplication(d))
		}
	}
	return ok(list(views))
}

func (h *handler) getApplication(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	return ok(viewApplication(d))
}

// change is what may be set of an application; nil members stay.
type change struct {
	DisplayName   *string         `json:"displayName"`
	Keys          *[]keyGiven     `json:"keyCredentials"`
	Passwords     json.RawMessage `json:"passwordCredentials"`
	Administrator *bool           `json:"administrator"`
}

type keyGiven struct {
	Name string `json:"displayName"`
	Key  string `json:"key"`
}

const maxName = 256 // characters of a display name: Graph's limit

// check makes sure that all of the change can be made before any of it is.
func (b change) check(isNew bool) ([]entra.CertificateInfo, error) {
	if b.DisplayName == nil && isNew || b.DisplayName != nil && (*b.DisplayName == "" || len(*b.DisplayName) > maxName) {
		return nil, badRequest("A displayName of 1 to %d characters is needed.", maxName)
	}
	if p := strings.TrimSpace(string(b.Passwords)); p != "" && p != "null" && p != "[]" {
		return nil, badRequest("passwordCredentials cannot be set; make a secret with addPassword, end one with removePassword.")
	}
	if b.Keys == nil {
		return nil, nil
	}
	var certificates []entra.CertificateInfo
	for n, k := range *b.Keys {
		der, err := certificateBytes(k.Key)
		if err == nil {
			_, err = entra.ParseCertificate(der)
		}
		if err != nil {
			return nil, badRequest("keyCredentials[%d].key is not fit: %v. It is the certificate in DER form, base64-encoded.", n, err)
		}
		certificates = append(certificates, entra.CertificateInfo{Name: k.Name, DER: der})
	}
	return certificates, nil
}

// certificateBytes also takes a PEM file that was encoded as a whole, as az does.
func certificateBytes(encoded string) ([]byte, error) {
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(der); block != nil && block.Type == "CERTIFICATE" {
		return block.Bytes, nil
	}
	return der, nil
}

// apply makes a checked change.
func (h *handler) apply(ctx context.Context, id string, b change, certificates []entra.CertificateInfo) error {
	if b.DisplayName != nil {
		if err := h.Entra.Rename(ctx, id, *b.DisplayName); err != nil {
			return err
		}
	}
	if b.Keys != nil {
		if err := h.Entra.SetCertificates(ctx, id, certificates); err != nil {
			return err
		}
	}
	if b.Administrator != nil {
		return h.Entra.SetAdministrator(ctx, id, *b.Administrator)
	}
	return nil
}

func (h *handler) createApplication(ctx context.Context, c *call) (answer, error) {
	var b change
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	certificates, err := b.check(true)
	if err != nil {
		return answer{}, err
	}
	made, err := h.Entra.RegisterApplication(ctx, c.directory(), *b.DisplayName)
	if err != nil {
		return answer{}, err
	}
	b.DisplayName = nil
	if err := h.apply(ctx, made.ObjectID, b, certificates); err != nil {
		return answer{}, err
	}
	d, err := h.Entra.Find(ctx, c.directory(), made.ObjectID)
	return answer{http.StatusCreated, viewApplication(d)}, err
}

func (h *handler) patchApplication(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var b change
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	if b.Administrator != nil && !*b.Administrator && d.ObjectID == c.caller.ObjectID {
		return answer{}, badRequest("An administrator cannot take the right from itself: somebody must be left who can give it.")
	}
	certificates, err := b.check(false)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, h.apply(ctx, d.ObjectID, b, certificates)
}

func (h *handler) deleteApplication(ctx context.Context, c *call) (answer, error) {
	d, err := h.find(ctx, c)
	if err == nil && d.Kind == entra.KindManagedIdentity {
		err = noObject(c.r.PathValue("id")) // that is a resource, and deleted as one
	}
	if err != nil {
		return answer{}, err
	}
	if d.ObjectID == c.caller.ObjectID {
		return answer{}, badRequest("An administrator cannot delete itself: somebody must be left who can manage the directory.")
	}
	return answer{status: http.StatusNoContent}, h.Entra.DeleteApplication(ctx, d.ObjectID)
}

// secretLife is how long a secret lives unless the request says otherwise: Graph's.
const secretLife = 2 * 365 * 24 * time.Hour

func (h *handler) addPassword(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var b struct {
		Credential struct {
			Name string     `json:"displayName"`
			End  *time.Time `json:"endDateTime"`
		} `json:"passwordCredential"`
	}
	if len(c.body) > 0 {
		if err := c.decode(&b); err != nil {
			return answer{}, err
		}
	}
	end := time.Now().Add(secretLife)
	if b.Credential.End != nil {
		end = *b.Credential.End
	}
	if !end.After(time.Now()) {
		return answer{}, badRequest("The endDateTime '%s' is in the past.", end.Format(time.RFC3339))
	}
	if len(b.Credential.Name) > maxName {
		return answer{}, badRequest("A displayName has at most %d characters.", maxName)
	}
	secret, info, err := h.Entra.AddSecret(ctx, d.ObjectID, b.Credential.Name, end)
	if err != nil {
		return answer{}, err
	}
	view := viewPassword(info)
	view.Text = &secret
	return ok(view)
}

func (h *handler) removePassword(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var b struct {
		ID string `json:"keyId"`
	}
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	err = h.Entra.RemoveSecret(ctx, d.ObjectID, strings.ToLower(b.ID))
	if errors.Is(err, store.ErrNotFound) {
		err = badRequest("No password credential found with keyId '%.64s'.", b.ID)
	}
	return answer{status: http.StatusNoContent}, err
}

// federated is a federated credential as Graph shows it.
type federated struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Issuer      string   `json:"issuer"`
	Subject     string   `json:"subject"`
	Description string   `json:"description"`
	Audiences   []string `json:"audiences"`
}

func viewFederated(f entra.FederatedCredential) federated {
	return federated{ID: f.ID, Name: f.Name, Issuer: f.Issuer, Subject: f.Subject, Description: f.Description, Audiences: f.Audiences}
}

func (h *handler) listFederated(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var views []federated
	for _, f := range d.Federated {
		views = append(views, viewFederated(f))
	}
	return ok(list(views))
}

func (h *handler) getFederated(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	name := c.r.PathValue("name")
	at := slices.IndexFunc(d.Federated, func(f entra.FederatedCredential) bool { return strings.EqualFold(f.Name, name) || f.ID == name })
	if at < 0 {
		return answer{}, noObject(name)
	}
	return ok(viewFederated(d.Federated[at]))
}

func (h *handler) createFederated(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var b federated
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	given := entra.FederatedCredential{Name: b.Name, Issuer: b.Issuer, Subject: b.Subject, Audiences: b.Audiences, Description: b.Description}
	if err := given.Check(); err != nil {
		return answer{}, badRequest("%v", err)
	}
	for _, f := range d.Federated {
		if strings.EqualFold(f.Name, given.Name) || f.Issuer == given.Issuer && f.Subject == given.Subject {
			return answer{}, &graphError{http.StatusConflict, "Request_MultipleObjectsWithSameKeyValue",
				"FederatedIdentityCredential with this name, or with this issuer and subject, exists already."}
		}
	}
	kept, _, err := h.Entra.PutFederatedCredential(ctx, d.ObjectID, given)
	return answer{http.StatusCreated, viewFederated(kept)}, err
}

func (h *handler) deleteFederated(ctx context.Context, c *call) (answer, error) {
	d, err := h.findApplication(ctx, c)
	if err != nil {
		return answer{}, err
	}
	err = h.Entra.DeleteFederatedCredential(ctx, d.ObjectID, c.r.PathValue("name"))
	if errors.Is(err, store.ErrNotFound) {
		err = noObject(c.r.PathValue("name"))
	}
	return answer{status: http.StatusNoContent}, err
}
