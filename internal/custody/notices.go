package custody

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/keystore"
)

// Warning is something that does not keep a key from being used now, and may later.
type Warning struct {
	Code    string
	Message string // what is wrong and what to do
	Since   time.Time
}

// The codes of warnings. They are shown to operators and never change meaning.
const (
	warnExpires    = "KeyExpiresSoon"
	warnGetDenied  = "GetDenied"          // expiry and new versions are not seen
	warnWrapDenied = "WrapDenied"         // moving to another version will fail
	warnNewUnfit   = "NewVersionUnusable" // the key's newest version cannot be used; the old one stays
	warnPurgeable  = "PurgeProtectionOff" // whoever may purge the key can destroy all data under it
)

// expiryDays are the days before a key's expiry at which is warned.
var expiryDays = []int{30, 14, 7, 3, 1}

const day = 24 * time.Hour

// notices are what a watch noticed of its key that is no reason to stop. Guarded by
// Keeper.mu.
type notices struct {
	getDenied, wrapDenied, purgeable time.Time // since when; zero: it is not so

	newest      string    // version of the key, if it is not the watch's; else empty
	newestSince time.Time // when that was first seen
	newestUnfit string    // why it cannot be used; empty: it can, or nobody tried

	warnedDays int // the expiry was last warned of so many days before; 0: it was not
}

// notice takes in what one look showed beside its verdict.
func (w *watch) notice(found evidence) {
	n := &w.notices
	if found.described {
		w.expires = found.expires
		n.purgeable = since(n.purgeable, strings.Contains(found.recovery, "Purgeable"))
	}
	if found.verdict == proof || found.verdict == refusal {
		n.getDenied = since(n.getDenied, slices.Contains(found.missing, opGet))
		w.missing, w.purge = found.missing, found.purge
	}
	w.warnOfExpiry()
}

// since keeps when something began to be so.
func since(before time.Time, is bool) time.Time {
	switch {
	case !is:
		return time.Time{}
	case before.IsZero():
		return time.Now()
	}
	return before
}

// daysLeft is the smallest of expiryDays that the time left is within; 0: none, or it
// is over.
func daysLeft(expires time.Time) int {
	left := time.Until(expires)
	if expires.IsZero() || left <= 0 {
		return 0
	}
	within := 0
	for _, d := range expiryDays {
		if left <= time.Duration(d)*day {
			within = d
		}
	}
	return within
}

// warnOfExpiry writes one line for each of expiryDays.
func (w *watch) warnOfExpiry() {
	n := &w.notices
	days := daysLeft(w.expires)
	if days != 0 && (n.warnedDays == 0 || days < n.warnedDays) {
		w.k.c.Log.Warn("the key expires soon; nothing under it is served from then on", "kid", w.key.kid, "days", days, "expires", w.expires.UTC())
	}
	n.warnedDays = days
}

// noticeRotation takes in a look at the newest version.
func (w *watch) noticeRotation(seen rotation) {
	n := &w.notices
	if !seen.looked {
		return
	}
	if answered := seen.wrapped; answered == nil || isDenied(answered) {
		n.wrapDenied = since(n.wrapDenied, isDenied(answered))
	}
	if seen.newest.IsZero() {
		return
	}
	newest := seen.newest.String()
	if newest == w.key.kid {
		n.newest, n.newestSince, n.newestUnfit = "", time.Time{}, ""
		return
	}
	if newest != n.newest {
		n.newest, n.newestSince = newest, time.Now()
	}
	n.newestUnfit = ""
	var problems *CheckError
	var refused *keystore.Error
	switch {
	case errors.As(seen.unfit, &problems):
		n.newestUnfit = problems.Problems[0].Message
	case errors.As(seen.unfit, &refused) && !refused.Outage():
		n.newestUnfit = refused.Error()
	}
}

// tell adds to a status what was noticed. A key that works and has a warning is Warned.
func (w *watch) tell(s *Status) {
	n := &w.notices
	if n.newest != "" {
		s.NewestVersion = n.newest
		if s.FollowsNewest {
			s.RotationLag = time.Since(n.newestSince)
		}
	}
	warn := func(code string, since time.Time, format string, args ...any) {
		s.Warnings = append(s.Warnings, Warning{Code: code, Message: fmt.Sprintf(format, args...), Since: since})
	}
	if d := daysLeft(w.expires); d != 0 {
		warn(warnExpires, w.expires.Add(-time.Duration(d)*day), "The key version %s expires on %s; nothing under it is served from then on. Set a later date, or move to another version.",
			w.key.kid, w.expires.UTC().Format(time.RFC3339))
	}
	if !n.getDenied.IsZero() {
		warn(warnGetDenied, n.getDenied, "The identity may not read the key: its expiry and new versions are not seen. Grant it the key permission get.")
	}
	if !n.wrapDenied.IsZero() {
		warn(warnWrapDenied, n.wrapDenied, "The identity may not wrap with the key: moving to another version will fail. Grant it the key permission wrapKey.")
		s.Missing = append(slices.Clone(s.Missing), opWrap)
	}
	if s.FollowsNewest && n.newestUnfit != "" {
		warn(warnNewUnfit, n.newestSince, "The key's newest version cannot be used, and the one before it stays in use. %s", n.newestUnfit)
	}
	if !n.purgeable.IsZero() {
		warn(warnPurgeable, n.purgeable, "The vault has no purge protection: whoever may purge the key can destroy all data under it. Turn it on (az keyvault update --enable-purge-protection true).")
	}
	if s.State == Healthy && len(s.Warnings) > 0 {
		s.State = Warned
	}
}
