package tracked

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

// Summary is a resource as lists across providers show it.
type Summary struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags,omitempty"`
	// Of History only the times are shown, to those who ask for them with $expand.
	History SystemData `json:"-"`
}

// Directories says which directory a subscription belongs to.
type Directories interface {
	// Directory returns store.ErrNotFound for an unknown subscription.
	Directory(ctx context.Context, subscription string) (entra.DirectoryID, error)
}

// SystemData says who made and who changed a resource.
type SystemData struct {
	CreatedBy          string    `json:"createdBy"`
	CreatedByType      string    `json:"createdByType"`
	CreatedAt          time.Time `json:"createdAt"`
	LastModifiedBy     string    `json:"lastModifiedBy"`
	LastModifiedByType string    `json:"lastModifiedByType"`
	LastModifiedAt     time.Time `json:"lastModifiedAt"`
}

// Stamp returns the data after a write by c: of a new resource when d is zero.
func (d SystemData) Stamp(c arm.Caller) SystemData {
	now := time.Now().UTC().Truncate(time.Microsecond)
	if d.CreatedAt.IsZero() {
		d.CreatedBy, d.CreatedByType, d.CreatedAt = c.ClientID, c.Kind, now
	}
	d.LastModifiedBy, d.LastModifiedByType, d.LastModifiedAt = c.ClientID, c.Kind, now
	return d
}

// The bounds of tags. Source: Azure documentation, "Use tags to organize your resources".
const (
	maxTags     = 50
	maxTagName  = 512
	maxTagValue = 256
)

// CheckTags refuses too many or too long tags.
func CheckTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return bad("TooManyTags", "tags", "The resource has %d tags; at most %d are allowed.", len(tags), maxTags)
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		switch {
		case name == "" || utf8.RuneCountInString(name) > maxTagName:
			return bad("InvalidTagNameLength", "tags", "A tag's name has 1 to %d characters; '%.64s' has not.", maxTagName, name)
		case strings.ContainsAny(name, `<>%&\?/`):
			return bad("InvalidTagNameCharacters", "tags", `The tag name '%.64s' has one of the characters <>%%&\?/, which are reserved.`, name)
		case utf8.RuneCountInString(tags[name]) > maxTagValue:
			return bad("InvalidTagValueLength", "tags", "The value of tag '%.64s' has more than %d characters.", name, maxTagValue)
		}
	}
	return nil
}

// Location checks the location of a request for a resource of this full type and
// returns its short form. current is the resource's, empty for a new one.
func Location(requested, current string, id arm.ResourceID) (string, error) {
	short := arm.ShortLocation(requested)
	switch {
	case short == "":
		return "", bad("LocationRequired", "location", "The location property is required for this definition.")
	case !KnownRegion(short):
		return "", bad("LocationNotAvailableForResourceType", "location",
			"The provided location '%.64s' is not available for resource type '%s'. List of available regions for the resource type is '%s'.",
			requested, id.Type(), strings.Join(regionNames(), ","))
	case current != "" && current != short:
		return "", &arm.Error{Status: http.StatusConflict, Code: "InvalidResourceLocation", Target: "location", Message: fmt.Sprintf(
			"The resource '%s' already exists in location '%s' in resource group '%s'. A resource with the same name cannot be created in location '%s'. Please select a new resource name.",
			id.Name(), current, id.ResourceGroup, short)}
	}
	return short, nil
}

func bad(code, target, format string, args ...any) error {
	return &arm.Error{Status: http.StatusBadRequest, Code: code, Target: target, Message: fmt.Sprintf(format, args...)}
}

// Conflict turns store.ErrConflict into what a client is told; other errors, nil
// too, stay as they are.
func Conflict(id arm.ResourceID, err error) error {
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	name := id.Name()
	if name == "" {
		name = id.ResourceGroup
	}
	return &arm.Error{Status: http.StatusConflict, Code: "Conflict", Target: id.String(), Cause: err, Message: fmt.Sprintf(
		"'%s' was changed by another request at the same time; nothing was changed by this one. Read it and try again.", name)}
}

// Locks serialises the writes of each resource in this process, so that two of them
// do not find out at the store, after all the work, that only one may win. The zero
// value is ready.
type Locks struct {
	mu   sync.Mutex
	held map[string]*heldLock
}

type heldLock struct {
	mu    sync.Mutex
	users int
}

// Lock waits for the resource of this key and returns the unlock.
func (l *Locks) Lock(key string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*heldLock{}
	}
	lock := l.held[key]
	if lock == nil {
		lock = new(heldLock)
		l.held[key] = lock
	}
	lock.users++
	l.mu.Unlock()

	lock.mu.Lock()
	return func() {
		lock.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if lock.users--; lock.users == 0 {
			delete(l.held, key)
		}
	}
}
