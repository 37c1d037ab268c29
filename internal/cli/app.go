package cli

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// application is what the command line shows of an application.
type application struct {
	ID            string    `json:"id"`
	AppID         string    `json:"appId"`
	Name          string    `json:"displayName"`
	Administrator bool      `json:"administrator"`
	Secrets       []secret  `json:"passwordCredentials"`
	Certificates  []certKey `json:"keyCredentials"`
}

type secret struct {
	ID      string     `json:"keyId"`
	Name    string     `json:"displayName"`
	Hint    string     `json:"hint"`
	Expires *time.Time `json:"endDateTime"`
	Text    string     `json:"secretText,omitempty"`
}

type certKey struct {
	ID      string     `json:"keyId,omitempty"`
	Name    string     `json:"displayName"`
	Type    string     `json:"type"`
	Usage   string     `json:"usage"`
	Expires *time.Time `json:"endDateTime,omitempty"`
	Key     []byte     `json:"key"`
}

// trust is a federated credential: whose tokens stand for an application.
type trust struct {
	Name      string   `json:"name"`
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
}

// appFlags name an application, and what is done to it.
type appFlags struct {
	app, name, id, file string
	life                time.Duration
	administrator       bool
	trust               trust
	audience            string
	value, objectID     string
}

func (o *Options) appCommand() *cobra.Command {
	parent := o.withOutput(&cobra.Command{Use: "app", Short: "Applications of the directory: who may have tokens, and by what"})
	secrets := &cobra.Command{Use: "secret", Short: "Client secrets of an application"}
	secrets.AddCommand(
		o.appRun("add", "Add a secret; it is shown once", (*Client).addSecret, "app", "name?", "expires-in"),
		o.appRun("remove", "End a secret, by its id", (*Client).removeSecret, "app", "id"),
	)
	certificates := &cobra.Command{Use: "certificate", Short: "Certificates by which an application proves itself"}
	certificates.AddCommand(
		o.appRun("add", "Add a certificate (PEM, RSA of 2048 bits or more)", (*Client).addCertificate, "app", "file"),
		o.appRun("remove", "Remove a certificate, by its id", (*Client).removeCertificate, "app", "id"),
	)
	trusts := &cobra.Command{Use: "trust", Short: "Tokens of other issuers that stand for an application (workload identity)"}
	trusts.AddCommand(
		o.appRun("add", "Trust tokens with this issuer, subject and audience", (*Client).addTrust, "app", "name", "issuer", "subject", "audience"),
		o.appRun("remove", "End a trust, by its name", (*Client).removeTrust, "app", "name"),
	)
	parent.AddCommand(
		o.appRun("list", "List the applications", (*Client).listApplications),
		o.appRun("show", "Show an application", (*Client).showApplication, "app"),
		o.appRun("create", "Make an application; add a secret, certificate or trust next", (*Client).createApplication, "name", "administrator"),
		o.appRun("delete", "Delete an application: its tokens are refused from now on", (*Client).deleteApplication, "app"),
		o.appRun("import", "Make a principal of somebody of a trusted issuer, to give roles to", (*Client).importPrincipal, "name", "issuer", "value", "object-id"),
		secrets, certificates, trusts,
	)
	return parent
}

// appRun makes a command with some of the flags; all are needed but those with a
// default and those marked with a question mark.
func (o *Options) appRun(use, short string, run func(*Client, context.Context, printer, appFlags) error, flags ...string) *cobra.Command {
	var f appFlags
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		p, err := o.printer()
		if err != nil {
			return err
		}
		client, err := o.connect()
		if err != nil {
			return err
		}
		return run(client, c.Context(), p, f)
	}}
	for _, flag := range flags {
		name, optional := strings.CutSuffix(flag, "?")
		switch name {
		case "app":
			c.Flags().StringVar(&f.app, name, "", "name or id of the application")
		case "name":
			c.Flags().StringVar(&f.name, name, "", "display name")
		case "id":
			c.Flags().StringVar(&f.id, name, "", "id, as 'app show' has it")
		case "file":
			c.Flags().StringVar(&f.file, name, "", "PEM file")
		case "expires-in":
			c.Flags().DurationVar(&f.life, name, 365*24*time.Hour, "how long it lives")
			optional = true
		case "administrator":
			c.Flags().BoolVar(&f.administrator, name, false, "it may manage the directory's applications")
			optional = true
		case "issuer":
			c.Flags().StringVar(&f.trust.Issuer, name, "", "https URL of the issuer, as tokens have it")
		case "subject":
			c.Flags().StringVar(&f.trust.Subject, name, "", "subject, as tokens have it")
		case "value":
			c.Flags().StringVar(&f.value, name, "", "what tokens have as 'oid', or 'sub', of it")
		case "object-id":
			c.Flags().StringVar(&f.objectID, name, "", "its object id here, a GUID (default: a new one)")
			optional = true
		case "audience":
			c.Flags().StringVar(&f.audience, name, "api://AzureADTokenExchange", "audience, as tokens have it")
			optional = true
		}
		if !optional {
			required(c, name)
		}
	}
	return c
}

func (c *Client) applications(ctx context.Context) ([]application, error) {
	var found struct{ Value []application }
	err := c.graph(ctx, http.MethodGet, "/v1.0/applications", nil, &found)
	return found.Value, err
}

// application finds one by name or id.
func (c *Client) application(ctx context.Context, which string) (application, error) {
	all, err := c.applications(ctx)
	if err != nil {
		return application{}, err
	}
	var named []application
	for _, a := range all {
		if strings.EqualFold(a.ID, which) || strings.EqualFold(a.AppID, which) {
			return a, nil
		}
		if a.Name == which {
			named = append(named, a)
		}
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return application{}, Hint(fmt.Errorf("there is no application %q", which), "'tidelock app list' shows them")
	}
	return application{}, Hint(fmt.Errorf("%d applications have the name %q", len(named), which), "name one by its id")
}

func (c *Client) listApplications(ctx context.Context, p printer, _ appFlags) error {
	all, err := c.applications(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{{"NAME", "CLIENT ID", "OBJECT ID", "ADMINISTRATOR"}}
	for _, a := range all {
		rows = append(rows, []string{a.Name, a.AppID, a.ID, fmt.Sprint(a.Administrator)})
	}
	return p.print(all, rows)
}

func (c *Client) showApplication(ctx context.Context, p printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	rows := [][]string{{"NAME", a.Name}, {"CLIENT ID", a.AppID}, {"OBJECT ID", a.ID}}
	for _, s := range a.Secrets {
		rows = append(rows, []string{"SECRET", s.ID, s.Hint + "…", "expires " + date(s.Expires), s.Name})
	}
	for _, k := range a.Certificates {
		rows = append(rows, []string{"CERTIFICATE", k.ID, "", "expires " + date(k.Expires), k.Name})
	}
	var trusts struct{ Value []trust }
	if err := c.graph(ctx, http.MethodGet, "/v1.0/applications/"+a.ID+"/federatedIdentityCredentials", nil, &trusts); err != nil {
		return err
	}
	for _, t := range trusts.Value {
		rows = append(rows, []string{"TRUST", t.Name, t.Issuer, t.Subject, strings.Join(t.Audiences, " ")})
	}
	return p.print(struct {
		application
		Trusts []trust `json:"federatedIdentityCredentials"`
	}{a, trusts.Value}, rows)
}

func date(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format(time.DateOnly)
}

func (c *Client) createApplication(ctx context.Context, p printer, f appFlags) error {
	var a application
	body := map[string]any{"displayName": f.name, "administrator": f.administrator}
	if err := c.graph(ctx, http.MethodPost, "/v1.0/applications", body, &a); err != nil {
		return err
	}
	return p.print(a, [][]string{{"NAME", "CLIENT ID", "OBJECT ID"}, {a.Name, a.AppID, a.ID}})
}

func (c *Client) importPrincipal(ctx context.Context, p printer, f appFlags) error {
	var made application
	body := map[string]string{"displayName": f.name, "issuer": f.trust.Issuer, "value": f.value, "id": f.objectID}
	if err := c.graph(ctx, http.MethodPost, "/beta/externalPrincipals", body, &made); err != nil {
		return err
	}
	return p.print(map[string]string{"id": made.ID, "displayName": made.Name}, [][]string{{"NAME", "OBJECT ID"}, {made.Name, made.ID}})
}

func (c *Client) deleteApplication(ctx context.Context, p printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	return c.graph(ctx, http.MethodDelete, "/v1.0/applications/"+a.ID, nil, nil)
}

func (c *Client) addSecret(ctx context.Context, p printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	var made secret
	body := map[string]any{"passwordCredential": map[string]any{"displayName": f.name, "endDateTime": time.Now().Add(f.life).UTC().Format(time.RFC3339)}}
	if err := c.graph(ctx, http.MethodPost, "/v1.0/applications/"+a.ID+"/addPassword", body, &made); err != nil {
		return err
	}
	return p.print(map[string]any{"keyId": made.ID, "secretText": made.Text, "endDateTime": made.Expires, "appId": a.AppID, "tenant": c.profile.DirectoryID},
		[][]string{{"CLIENT ID", "SECRET", "EXPIRES", "ID"}, {a.AppID, made.Text, date(made.Expires), made.ID}})
}

func (c *Client) removeSecret(ctx context.Context, _ printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	return c.graph(ctx, http.MethodPost, "/v1.0/applications/"+a.ID+"/removePassword", map[string]string{"keyId": f.id}, nil)
}

func (c *Client) addCertificate(ctx context.Context, p printer, f appFlags) error {
	raw, err := os.ReadFile(f.file)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	var block *pem.Block
	for rest := raw; ; { // the file may hold the private key too, which stays here
		if block, rest = pem.Decode(rest); block == nil || block.Type == "CERTIFICATE" {
			break
		}
	}
	if block == nil {
		return fmt.Errorf("%s holds no certificate in PEM form", f.file)
	}
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	more := append(a.Certificates, certKey{Name: f.file, Type: "AsymmetricX509Cert", Usage: "Verify", Key: block.Bytes})
	return c.graph(ctx, http.MethodPatch, "/v1.0/applications/"+a.ID, map[string]any{"keyCredentials": more}, nil)
}

func (c *Client) removeCertificate(ctx context.Context, _ printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	left := []certKey{}
	for _, k := range a.Certificates {
		if !strings.EqualFold(k.ID, f.id) {
			left = append(left, k)
		}
	}
	if len(left) == len(a.Certificates) {
		return Hint(errors.New("the application has no certificate of this id"), "'tidelock app show' lists them")
	}
	return c.graph(ctx, http.MethodPatch, "/v1.0/applications/"+a.ID, map[string]any{"keyCredentials": left}, nil)
}

func (c *Client) addTrust(ctx context.Context, _ printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	f.trust.Name, f.trust.Audiences = f.name, []string{f.audience}
	return c.graph(ctx, http.MethodPost, "/v1.0/applications/"+a.ID+"/federatedIdentityCredentials", f.trust, nil)
}

func (c *Client) removeTrust(ctx context.Context, _ printer, f appFlags) error {
	a, err := c.application(ctx, f.app)
	if err != nil {
		return err
	}
	return c.graph(ctx, http.MethodDelete, "/v1.0/applications/"+a.ID+"/federatedIdentityCredentials/"+f.name, nil, nil)
}
