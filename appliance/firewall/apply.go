package firewall

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Bounds of the talk with the kernel.
const (
	// netlinkTimeout bounds one exchange.
	netlinkTimeout = 20 * time.Second
	// sendBuffer holds the whole transaction, in bytes.
	sendBuffer = 8 << 20
	// elementsPerMessage keeps a list of set elements below the 64 KiB of a
	// netlink attribute.
	elementsPerMessage = 512
	// maxElements bounds all sets together.
	maxElements = 64 << 10
)

// Apply makes the kernel's filter the given one, in one transaction, and reports
// whether it had to change anything. It needs CAP_NET_ADMIN. On an error the
// filter is as it was.
func Apply(ctx context.Context, r Ruleset) (bool, error) {
	conn, err := dial(ctx)
	if err != nil {
		return false, err
	}
	same, err := loaded(conn, r)
	if err != nil || same {
		return false, err
	}
	if conn, err = dial(ctx); err != nil { // a deadline holds for one exchange
		return false, err
	}
	if err := queue(conn, r); err != nil {
		return false, err
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("firewall: replace rules: %w", err)
	}
	return true, nil
}

func dial(ctx context.Context) (*nftables.Conn, error) {
	deadline := time.Now().Add(netlinkTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(sendBuffer), c.SetDeadline(deadline))
	}))
	if err != nil {
		return nil, fmt.Errorf("firewall: open nftables: %w", err)
	}
	return conn, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// loaded reports whether the kernel has these rules: the mark with their hash,
// and in each chain as many rules as they have, with the same comments.
func loaded(conn *nftables.Conn, r Ruleset) (bool, error) {
	t := table()
	if _, err := conn.ListTableOfFamily(t.Name, t.Family); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, fmt.Errorf("firewall: read table: %w", err)
	}
	for _, c := range r.chains() {
		rules, err := conn.GetRules(t, &nftables.Chain{Name: c.name, Table: t})
		if err != nil || len(rules) != len(c.rules) { // a chain that is missing is an error, too
			return false, nil
		}
		for i, want := range c.rules {
			comment, _ := userdata.GetString(rules[i].UserData, userdata.TypeComment)
			if comment != want.Comment {
				return false, nil
			}
		}
	}
	return true, nil
}

// queue puts the whole transaction together: the old table goes, the new one
// comes, and nothing of it counts before Flush.
func queue(conn *nftables.Conn, r Ruleset) error {
	t := table()
	conn.AddTable(t) // so that there is one to delete
	conn.DelTable(t)
	conn.AddTable(t)
	c := &compiler{conn: conn, table: t, sets: map[string]*nftables.Set{}}
	if err := c.addSets(r.Sets); err != nil {
		return err
	}
	hooks := map[string]*nftables.ChainHook{chainInput: nftables.ChainHookInput, chainForward: nftables.ChainHookForward, chainOutput: nftables.ChainHookOutput}
	for _, ch := range r.chains() {
		policy := nftables.ChainPolicyDrop
		chain := conn.AddChain(&nftables.Chain{
			Name: ch.name, Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: hooks[ch.name], Priority: nftables.ChainPriorityFilter, Policy: &policy,
		})
		for _, rule := range ch.rules {
			exprs, err := c.rule(rule)
			if err != nil {
				return err
			}
			var data []byte
			if rule.Comment != "" {
				data = userdata.AppendString(nil, userdata.TypeComment, rule.Comment)
			}
			conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs, UserData: data})
		}
	}
	return nil
}

func (c *compiler) addSets(sets []Set) error {
	total := 0
	for _, s := range sets {
		all := elements(s.Networks)
		if total += len(all); total > maxElements {
			return fmt.Errorf("firewall: the rules name more than %d networks; join them to fewer in the configuration", maxElements/2)
		}
		kind := nftables.TypeIPAddr
		if s.Networks[0].Addr().Is6() {
			kind = nftables.TypeIP6Addr
		}
		set := &nftables.Set{Table: c.table, Name: s.Name, Interval: true, KeyType: kind}
		if err := c.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("firewall: set %s: %w", s.Name, err)
		}
		for len(all) > 0 {
			n := min(len(all), elementsPerMessage)
			if err := c.conn.SetAddElements(set, all[:n]); err != nil {
				return fmt.Errorf("firewall: set %s: %w", s.Name, err)
			}
			all = all[n:]
		}
		c.sets[s.Name] = set
	}
	return nil
}
