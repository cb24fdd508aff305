package config

import (
	"fmt"
	"time"
)

// Bounds of Relay. RFC 5321 §4.5.4.1 speaks of four to five days; De-Mail
// promises much less, so that more is no use.
const (
	minGiveUp       = Duration(time.Hour)
	maxGiveUp       = Duration(120 * time.Hour)
	maxDelayNotices = 8
)

// relay checks how long mail is tried.
func (c *checker) relay() {
	r := &c.doc.Relay
	if !c.sound("relay") {
		return
	}
	giveUp := orDefault(r.GiveUp, defaultGiveUp)
	if giveUp < minGiveUp || giveUp > maxGiveUp {
		c.fault("relay.giveUp", fmt.Sprintf("choose %s to %s, or leave it out for %s", minGiveUp, maxGiveUp, defaultGiveUp), "%s is out of bounds", giveUp)
		return
	}
	if n := len(r.DelayNotices); n > maxDelayNotices {
		c.fault("relay.delayNotices", "use fewer", "%d notices, more than %d", n, maxDelayNotices)
		return
	}
	if len(r.DelayNotices) == 1 && r.DelayNotices[0] == 0 {
		return // none
	}
	last := Duration(0)
	for i, age := range r.DelayNotices {
		p := at("relay.delayNotices", i)
		switch {
		case age == 0:
			c.fault(p, "write a single 0s for no notices, or leave the list out for 1h and 3h", "a notice at 0s is none")
		case age <= last:
			c.fault(p, "put them in order, each later than the one before", "%s comes after %s", age, last)
		case age >= giveUp:
			c.fault(p, "let it come before giveUp", "after %s the message went back already", giveUp)
		}
		last = max(last, age)
	}
}
