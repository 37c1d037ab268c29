package relay

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// maxDetailsBytes bounds what a client may say of itself: it is sent to everyone
// who is or will be in the document.
const maxDetailsBytes = 16 << 10

// protocolVersions are the versions that this service speaks, newest first.
var protocolVersions = []string{"^0.4.0", "^0.3.0", "^0.2.0", "^0.1.0"}

var errBadConnect = errors.New("malformed connect_document")

// connectMessage is IConnect of the Fluid protocol definitions, the members that
// matter here. Nothing that it says of the client's identity or rights is used.
type connectMessage struct {
	TenantID *string  `json:"tenantId"`
	ID       *string  `json:"id"`
	Token    *string  `json:"token"`
	Mode     string   `json:"mode"`
	Versions []string `json:"versions"`
	Client   struct {
		Mode       string   `json:"mode"`
		Permission []string `json:"permission"`
		Scopes     []string `json:"scopes"`
		User       *struct {
			ID *string `json:"id"`
		} `json:"user"`
		Details json.RawMessage `json:"details"`
	} `json:"client"`
	SupportedFeatures map[string]json.RawMessage `json:"supportedFeatures"`
	Nonce             *string                    `json:"nonce"`
	Epoch             *string                    `json:"epoch"`
	DriverVersion     *string                    `json:"driverVersion"`
	RelayUserAgent    *string                    `json:"relayUserAgent"`

	clientType string // details.type
	signalsV2  bool   // supportedFeatures.submit_signals_v2
}

// parseConnect checks a connect_document strictly: every member that it knows has
// its type, and what is required is there.
func parseConnect(args []json.RawMessage) (connectMessage, error) {
	var m connectMessage
	if len(args) == 0 {
		return m, errBadConnect
	}
	if err := json.Unmarshal(args[0], &m); err != nil {
		return m, errBadConnect
	}
	var details struct {
		Capabilities *struct {
			Interactive *bool `json:"interactive"`
		} `json:"capabilities"`
		Type string `json:"type"`
	}
	if len(m.Client.Details) == 0 || len(m.Client.Details) > maxDetailsBytes {
		return m, errBadConnect
	}
	if err := json.Unmarshal(m.Client.Details, &details); err != nil {
		return m, errBadConnect
	}
	ok := m.TenantID != nil && m.ID != nil &&
		isMode(m.Mode) && isMode(m.Client.Mode) &&
		m.Versions != nil && m.Client.Permission != nil && m.Client.Scopes != nil &&
		m.Client.User != nil && m.Client.User.ID != nil &&
		details.Capabilities != nil && details.Capabilities.Interactive != nil
	if !ok {
		return m, errBadConnect
	}
	m.clientType = details.Type
	m.signalsV2 = string(m.SupportedFeatures["submit_signals_v2"]) == "true"
	return m, nil
}

func isMode(mode string) bool { return mode == modeRead || mode == modeWrite }

// chooseVersion returns the version of ours that the first range of the client's
// that we can serve asks for, and false if there is none.
func chooseVersion(ranges []string) (string, bool) {
	for _, r := range ranges {
		if v, ok := compatibleVersion(r); ok && slices.Contains(protocolVersions, v) {
			return v, true
		}
	}
	return "", false
}

// compatibleVersion returns the caret range that a version or caret or tilde range
// lies in. Below 1.0 minor versions are incompatible with each other, and all of
// ours are.
func compatibleVersion(r string) (string, bool) {
	parts := strings.Split(strings.TrimLeft(r, "^~"), ".")
	if len(parts) != 3 || parts[0] != "0" {
		return "", false
	}
	minor, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil {
		return "", false
	}
	return "^0." + strconv.FormatUint(minor, 10) + ".0", true
}
