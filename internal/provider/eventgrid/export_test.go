package eventgrid

import "time"

// Hurry makes a provider of a test look and try again at once.
func (p *Provider) Hurry() {
	p.every, p.backoff = 10*time.Millisecond, []time.Duration{20 * time.Millisecond}
}
