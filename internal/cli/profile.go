package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Profile says how to reach a server's management plane, and as whom.
type Profile struct {
	ManagementURL  string `json:"managementUrl"` // https://host:port
	CAFile         string `json:"caFile"`        // PEM, to be trusted for it
	Domain         string `json:"domain"`        // names under it lead to ManagementURL's address
	VaultSuffix    string `json:"vaultSuffix"`   // vaults are https://{name}.{VaultSuffix}
	HSMSuffix      string `json:"hsmSuffix"`     // the same of managed HSMs
	DirectoryID    string `json:"directoryId"`
	SubscriptionID string `json:"subscriptionId"`
	ClientID       string `json:"clientId"`
	ObjectID       string `json:"objectId"` // what access policies name
	ClientSecret   string `json:"clientSecret"`
}

// LoadProfile reads a profile that a server wrote beside its data directory.
func LoadProfile(path string) (Profile, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Profile{}, Hint(fmt.Errorf("there is no server profile %s", path),
			"run 'tidelock quickstart' first, or name the server's data directory with --data")
	}
	if err != nil {
		return Profile{}, fmt.Errorf("read the server profile: %w", err)
	}
	var p Profile
	if err := json.Unmarshal(raw, &p); err != nil {
		return Profile{}, fmt.Errorf("server profile %s: %w", path, err)
	}
	if p.ManagementURL == "" || p.ClientID == "" || p.DirectoryID == "" {
		return Profile{}, fmt.Errorf("server profile %s is incomplete", path)
	}
	return p, nil
}
