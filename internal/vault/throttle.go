package vault

import (
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A vault's limits are published as transactions in ten seconds, by the kind of key, and
// their sum is weighted: what may be done 500 times costs eight times as much as what may
// be done 4000 times. Source: Azure Key Vault service limits.
const (
	limitSpan    = 10 * time.Second
	limitOthers  = 4000 // on RSA-2048 and EC keys in software: one unit each
	limitCreates = 20   // keys in software: one unit each
)

// throttles bounds what each vault is asked for, in this process.
type throttles struct {
	mu     sync.Mutex
	vaults map[string]*throttle // by ref; there are no more than vaults
}

type throttle struct{ creates, others *rate.Limiter }

func newThrottles() *throttles { return &throttles{vaults: map[string]*throttle{}} }

func (t *throttles) of(v Vault) *throttle {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.vaults[v.ref()]
	if one == nil {
		per := func(n int) *rate.Limiter { return rate.NewLimiter(rate.Every(limitSpan/time.Duration(n)), n) }
		one = &throttle{creates: per(limitCreates), others: per(limitOthers)}
		t.vaults[v.ref()] = one
	}
	return one
}

// units is what one use of a key costs: hardware twice as much as software, RSA-3072
// four times and RSA-4096 eight times as much as the others.
func (k keySpec) units() int {
	n := 1
	switch {
	case k.isRSA() && k.bits == 3072:
		n = 4
	case k.isRSA() && k.bits == 4096:
		n = 8
	}
	if k.hardware() {
		n *= 2
	}
	return n
}

// spend takes what a request costs, or refuses it with when to come back.
func (s *Service) spend(v Vault, creates bool, units int) error {
	if s.throttles == nil {
		return nil
	}
	t := s.throttles.of(v)
	limiter := t.others
	if creates {
		limiter = t.creates
	}
	now := time.Now()
	r := limiter.ReserveN(now, units)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	r.CancelAt(now)
	return &apiError{
		status: http.StatusTooManyRequests, code: "Throttled", after: int(math.Ceil(wait.Seconds())),
		message: "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached",
	}
}
