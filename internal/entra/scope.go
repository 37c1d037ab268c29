package entra

import (
	"errors"
	"strings"
)

// errScopes: the scope parameter does not name one resource.
var errScopes = errors.New("client credential flows must have one scope value, a resource identifier with /.default behind it")

// resourceOfScope finds the resource in a scope parameter: a blank-separated list
// with one "{resource}/.default", beside which clients send openid,
// offline_access and profile. "https://host//.default" means "https://host/".
func resourceOfScope(scope string) (string, error) {
	found := ""
	for one := range strings.FieldsSeq(scope) {
		switch strings.ToLower(one) {
		case "openid", "offline_access", "profile", "email":
			continue
		}
		resource, ok := strings.CutSuffix(one, "/.default")
		if !ok || resource == "" || found != "" {
			return "", errScopes
		}
		found = resource
	}
	if found == "" {
		return "", errScopes
	}
	return found, nil
}
