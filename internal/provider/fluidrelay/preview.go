package fluidrelay

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/store"
)

// previewVersion serves what Azure's released versions do not have. It is the newest
// preview version that Azure has for this provider, so that tools know its form.
const previewVersion = "2025-06-20-preview"

// previewRoutes are about the keys of one server, but for the log of key uses, which is
// one for all: a probe speaks for every server under a key.
func (p *Provider) previewRoutes(one string) []arm.Route {
	versions := []string{previewVersion}
	var routes []arm.Route
	if p.c.Containers != nil {
		routes = append(routes, arm.Route{Method: "POST", Pattern: one + "/fluidRelayContainers/{container}/acceptRollback", Action: containerType + "/acceptRollback/action", Versions: versions, Handle: p.acceptRollback},
			arm.Route{Method: "POST", Pattern: one + "/fluidRelayContainers/{container}/rotateKey", Action: containerType + "/rotateKey/action", Versions: versions, Handle: p.rotateContainerKey})
	}
	return append(routes, []arm.Route{
		{Method: "GET", Pattern: one + "/encryptionStatus", Action: Type + "/encryptionStatus/read", Versions: versions, Handle: p.encryptionStatus},
		{Method: "GET", Pattern: one + "/encryptionHistory", Action: Type + "/encryptionHistory/read", Versions: versions, Handle: p.encryptionHistory},
		{Method: "POST", Pattern: one + "/checkEncryption", Action: Type + "/checkEncryption/action", Versions: versions, Handle: p.checkEncryptionOnly},
		{Method: "POST", Pattern: one + "/rotateDocumentKeys", Action: Type + "/rotateDocumentKeys/action", Versions: versions, Handle: p.rotateDocumentKeys},
		{Method: "POST", Pattern: one + "/drillEncryption", Action: Type + "/drillEncryption/action", Versions: versions, Handle: p.startDrill},
		{Method: "GET", Pattern: one + "/encryptionDrill", Action: Type + "/encryptionDrill/read", Versions: versions, Handle: p.showDrill},
		{Method: "GET", Pattern: arm.InSubscription + "/providers/" + namespace + "/keyUses", Action: namespace + "/keyUses/read", Versions: versions, Handle: p.keyUses},
		{Method: "POST", Pattern: arm.InSubscription + "/providers/" + namespace + "/proveEncryption", Action: namespace + "/proveEncryption/action", Versions: versions, Handle: p.proveEncryption},
		{Method: "GET", Pattern: arm.InSubscription + "/providers/" + namespace + "/encryptionProof", Action: namespace + "/encryptionProof/read", Versions: versions, Handle: p.showProof},
		{Method: "POST", Pattern: arm.InSubscription + "/providers/" + namespace + "/listKeyEventWebhook", Action: namespace + "/listKeyEventWebhook/action", Versions: versions, Handle: p.listKeyEventWebhook},
		{Method: "POST", Pattern: arm.InSubscription + "/providers/" + namespace + "/regenerateKeyEventWebhook", Action: namespace + "/regenerateKeyEventWebhook/action", Versions: versions, Handle: p.regenerateKeyEventWebhook},
		{Method: "GET", Pattern: arm.InSubscription + "/providers/" + namespace + "/keyImpact", Action: namespace + "/keyImpact/read", Versions: versions, Handle: p.keyImpact},
		{Method: "GET", Pattern: arm.InSubscription + "/providers/" + namespace + "/deletionReceipts", Action: namespace + "/deletionReceipts/read", Versions: versions, Handle: p.listReceipts},
	}...)
}

func previewOperations(op func(resource, action, title, description string) operation) []operation {
	const servers = "fluidRelayServers"
	return []operation{
		op(servers+"/encryptionStatus", "read", "Get the state of a server's key", "Gets whether the key of a Fluid Relay server can be used, why not, and when it is asked about next."),
		op(servers+"/encryptionHistory", "read", "Get the history of a server's key", "Lists the key versions that wrapped the root key of a Fluid Relay server."),
		op(servers, "checkEncryption/action", "Check an encryption configuration", "Checks everything that creating or updating a Fluid Relay server checks, and changes nothing."),
		op(servers, "rotateDocumentKeys/action", "Replace the keys of all containers", "Has new data of each container of a Fluid Relay server sealed under a new key of that container."),
		op(servers+"/fluidRelayContainers", "rotateKey/action", "Replace a container's key", "Has new data of a container sealed under a new key."),
		op(servers, "drillEncryption/action", "Rehearse the loss of a server's key", "Plays a refusal of the key store's for one Fluid Relay server, which stops and comes back, and measures it."),
		op(servers+"/encryptionDrill", "read", "Get the report of a drill", "Gets what the newest drill of a Fluid Relay server measured."),
		{Name: namespace + "/proveEncryption/action", Display: display{namespace, "proveEncryption", "Prove that everything is sealed", "Walks through everything stored and opens it."}},
		op("encryptionProof", "read", "Get the report of a proof", "Gets what the newest walk through everything stored found."),
		{Name: namespace + "/listKeyEventWebhook/action", Display: display{namespace, "listKeyEventWebhook", "Get the webhook for key events", "Gets the secret URL that Event Grid is to send the events of key vaults to."}},
		{Name: namespace + "/regenerateKeyEventWebhook/action", Display: display{namespace, "regenerateKeyEventWebhook", "Replace the webhook for key events", "Replaces the secret of the URL for the events of key vaults; the one before works for a day."}},
		op("keyImpact", "read", "Find what a key version keeps in service", "Lists the Fluid Relay servers that would stop, or move to another version, if a key version were disabled."),
		op("serviceKey", "read", "Get the versions of the service key", "Gets which version of the installation's own key seals, and which ones are still needed."),
		{Name: namespace + "/rotateServiceKey/action", Display: display{namespace, "rotateServiceKey", "Rotate the service key", "Has a new version of the installation's own key seal, and everything sealed anew under it."}},
		op("keyUses", "read", "Read the log of key uses", "Lists each use of a customer-managed key, with the hash chain that shows that none is missing."),
		op(servers+"/fluidRelayContainers", "acceptRollback/action", "Accept a container that was put back", "Has a container served as it is, though more of it is known to have been there."),
		op("deletionReceipts", "read", "Read the receipts of deletions", "Lists what was destroyed when containers and servers were deleted, and until when old copies of the data can be opened."),
	}
}

// wireStatus is the answer to encryptionStatus. Times are RFC 3339, absent when there
// is none.
type wireStatus struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties wireStatusProperties `json:"properties"`
}

type wireStatusProperties struct {
	Resource     string     `json:"resource"` // names the server in sealed headers and in the log of key uses
	State        string     `json:"state"`    // Healthy, Suspect, Unreachable, Unusable; Unknown: not asked yet
	Reason       string     `json:"reason,omitempty"`
	Fix          string     `json:"fix,omitempty"`
	Since        *time.Time `json:"since,omitempty"`
	LastProof    *time.Time `json:"lastProofAt,omitempty"`
	ServedUntil  *time.Time `json:"servedUntil,omitempty"` // without another proof
	NextCheck    *time.Time `json:"nextCheckAt,omitempty"`
	Key          string     `json:"currentVersionedKeyIdentifier,omitempty"`
	KeyExpires   *time.Time `json:"currentKeyExpiration,omitempty"`
	LastRotation *time.Time `json:"lastKeyRotationTimestamp,omitempty"`
	Rotation     string     `json:"rotationMode"` // ServiceManaged, Pinned, Automatic
	NextVersion  *time.Time `json:"nextVersionCheckAt,omitempty"`

	GraceDeadline *time.Time     `json:"graceDeadline,omitempty"`    // of an outage: served until then
	Enforced      *time.Time     `json:"enforcedAt,omitempty"`       // keys were wiped for the present state
	Recoverable   *time.Time     `json:"recoverableUntil,omitempty"` // a deleted key
	Missing       []string       `json:"missingPermissions,omitempty"`
	Newer         string         `json:"newerVersionAvailable,omitempty"` // and not in use
	RotationLag   int64          `json:"rotationLagSeconds,omitempty"`    // since it is known, where it should be followed
	Warnings      []wireWarning  `json:"warnings,omitempty"`
	Previous      []wirePrevious `json:"previousVersions,omitempty"` // newest first
}

type wireWarning struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Since   *time.Time `json:"since"`
}

func (p *Provider) encryptionStatus(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	w, err := p.statusOf(ctx, s)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: wireStatus{ID: s.ID + "/encryptionStatus", Name: "encryptionStatus", Type: Type + "/encryptionStatus", Properties: w}}, nil
}

func (p *Provider) statusOf(ctx context.Context, s server) (wireStatusProperties, error) {
	k := p.c.Custody.Status(s.Resource)
	w := wireStatusProperties{
		Resource: hex.EncodeToString(s.Resource[:]), State: string(k.State), Reason: k.Reason, Fix: fixes[k.Reason],
		Since: when(k.Since), LastProof: when(k.LastProof), ServedUntil: when(k.Until), NextCheck: when(k.NextProbe),
		Key: k.KeyID, KeyExpires: when(k.Expires), LastRotation: when(k.WrappedAt), Rotation: "Pinned", NextVersion: when(k.NextVersion),
		Enforced: when(k.Enforced), Recoverable: when(k.Purge), Missing: k.Missing, Newer: k.NewestVersion, RotationLag: int64(k.RotationLag / time.Second),
	}
	if k.State == "" {
		w.State = "Unknown"
	}
	if k.State == custody.Unreachable {
		w.GraceDeadline = w.ServedUntil
	}
	for _, each := range k.Warnings {
		w.Warnings = append(w.Warnings, wireWarning{each.Code, each.Message, when(each.Since)})
	}
	switch {
	case s.Encryption == nil:
		w.Rotation = "ServiceManaged"
		return w, nil
	case k.FollowsNewest:
		w.Rotation = "Automatic"
	}
	var err error
	w.Previous, err = p.previousVersions(ctx, s)
	return w, err
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// fixes say, for each reason of package custody, what helps.
var fixes = map[string]string{
	"KeyDisabled":              "Enable the key version: tidelock keyvault key enable.",
	"KeyExpired":               "Set a later expiration date on the key version.",
	"KeyNotYetValid":           "Set an earlier activation date on the key version.",
	"KeyDeleted":               "Recover the deleted key before it is purged: az keyvault key recover.",
	"KeyPurged":                "None: the key was purged, and without it the data is unrecoverable. Restore the key from a backup of your own, if you have one, or delete the resource.",
	"VaultDeleted":             "Recover the deleted vault, or correct its DNS name.",
	"AccessDenied":             "Grant the identity the key permissions get, wrapKey and unwrapKey on the vault; in a managed HSM, the role Managed HSM Crypto Service Encryption User.",
	"AccessDeniedUnclassified": "Look into the vault's log: it refuses the identity for a reason that is not known here.",
	"FirewallDenied":           "Allow trusted Microsoft services to bypass the vault's firewall, or let this service in.",
	"IdentityUnavailable":      "Create the user-assigned identity again, or update the resource to use another one.",
	"KeyMismatch":              "The vault gives another key than the one that was wrapped: restore the key that the URL named.",
	"UnreachableTimeout":       "Make the vault reachable again; service follows within 30 seconds.",
	"Drill":                    "Nothing: nobody refuses the key. A drill is being held, and ends by itself.",
	"LeaseExpired":             "Nothing: this process was stuck and is asking the vault again.",
}

type wireWrap struct {
	Generation uint64    `json:"generation"`
	InForce    bool      `json:"inForce"`
	KeyURL     string    `json:"keyEncryptionKeyUrl,omitempty"`
	KeyID      string    `json:"keyIdentifier"`
	Identity   string    `json:"userAssignedIdentityResourceId,omitempty"`
	Created    time.Time `json:"createdAt"`
	RequestID  string    `json:"vaultRequestId,omitempty"`
}

func (p *Provider) encryptionHistory(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	wraps, err := p.c.Custody.History(ctx, s.Resource)
	if err != nil {
		return nil, err
	}
	views := make([]wireWrap, len(wraps))
	for n, each := range wraps {
		views[n] = wireWrap{each.Generation, each.InForce, each.KeyURL, each.KeyID, each.Identity, each.CreatedAt, each.RequestID}
	}
	// Newest first: the order of this key.
	return arm.Page(r, views, func(w wireWrap) string { return fmt.Sprintf("%020d", ^w.Generation) })
}

type wireCheck struct {
	Usable   bool         `json:"usable"`
	Problems []*arm.Error `json:"problems"` // every failed check, as in the details of a refused PUT
	// Unchecked says what could not be looked at: only where Azure's own resource manager would know.
	Unchecked []string `json:"unchecked,omitempty"`
}

// checkEncryptionOnly answers what a PATCH with this body, or a PUT if there is no such
// server, would be refused for. Without a body it checks what is configured. It
// changes nothing; the key store is asked as the identity named, so the caller must be
// one who may assign that.
func (p *Provider) checkEncryptionOnly(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.row(ctx, r.ID)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	c := change{caller: r.Caller, id: r.ID, isPut: true, touches: true}
	if err == nil {
		if len(r.Body) == 0 {
			r.Body = []byte("{}")
		}
		c.before, c.isPut = &row, false
		c, err = c.readPatch(r)
	} else {
		c, err = c.readPut(r)
	}
	if err != nil {
		return nil, err
	}
	unchecked, err := p.dryRun(ctx, c)
	var refused *arm.Error
	if err != nil && (!errors.As(err, &refused) || refused.Status == http.StatusForbidden) {
		return nil, err
	}
	w := wireCheck{Usable: err == nil, Problems: []*arm.Error{}, Unchecked: unchecked}
	switch {
	case refused == nil:
	case len(refused.Details) > 0:
		w.Problems = refused.Details
	default:
		w.Problems = []*arm.Error{refused}
	}
	return &arm.Response{Body: w}, nil
}

// dryRun is apply without its writes.
func (p *Provider) dryRun(ctx context.Context, c change) (unchecked []string, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.next.Identity = c.wanted.identity
	var current server
	if c.before != nil {
		current = c.before.Value
	}
	if err := p.checkAssignable(ctx, c, current.Identity, c.next.Identity); err != nil {
		return nil, err
	}
	if c.next.Encryption == nil {
		return nil, nil
	}
	found := &problems{}
	e, err := p.examine(ctx, c, found)
	if err != nil {
		return nil, err
	}
	if e.usable {
		if c.before == nil {
			err = p.c.Custody.Check(ctx, e.settings)
		} else {
			err = p.c.Custody.CheckUpdate(ctx, c.next.Resource, e.settings)
		}
		if err := found.use(err); err != nil {
			return nil, err
		}
	}
	return found.unchecked, found.err()
}

// AdmitAll asks for the key of every server, so that each is watched from the start and
// its status is known. It returns when all were asked for; keys that cannot be used are
// asked about again by themselves.
func (p *Provider) AdmitAll(ctx context.Context) {
	const atOnce = 8
	rows, err := p.tenants.List(ctx, "")
	if err != nil {
		p.c.Log.ErrorContext(ctx, "the servers cannot be listed; their keys are asked for when they are used", "err", err)
		return
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, row := range rows {
		g.Go(func() error {
			s, err := p.servers.Get(ctx, row.Value.Subscription, row.Value.Key)
			if err == nil {
				err = p.c.Custody.Admit(ctx, s.Value.Resource)
			}
			var unusable *custody.UnusableError
			if err != nil && !errors.As(err, &unusable) && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
				p.c.Log.ErrorContext(ctx, "the key of a server cannot be looked at", "subscription_id", row.Value.Subscription, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return no error
}
