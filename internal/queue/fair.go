package queue

// Due serves tenants, and within a tenant its next hops, by a deficit round robin in
// bytes: whoever has the turn is served until its credit is used up, which each round
// renews by one quantum. A message that exceeds the credit is served all the same and
// leaves a debt, that the next rounds pay. So in the long run each gets the same
// share of bytes, whatever the sizes; and in the short run a single letter waits for
// at most one quantum, and one message, of each other.
const (
	// quantum is the credit of a round: some letters, or part of a large one.
	quantum = 64 << 10
	// messageCost is what each message costs besides its bytes: the dialogue with the
	// next hop, and the records of the attempt.
	messageCost = 4 << 10
	// maxRounds bounds what an account is credited for at once.
	maxRounds = 1 << 30
)

// account is how a participant stands.
type account struct {
	credit int64 // bytes that it may be served; below zero, its debt
	round  int64 // up to which it was credited
}

// at brings the account up to a round and returns its credit. Nobody saves up more
// than one quantum.
func (a *account) at(round int64) int64 {
	if passed := min(round-a.round, maxRounds); passed > 0 {
		a.credit, a.round = min(a.credit+quantum*passed, quantum), round
	}
	return a.credit
}

// charge takes what was served, or gives it back.
func (a *account) charge(cost int64) { a.credit -= cost }

// debt is in how many rounds the account has credit again.
func (a *account) debt() int64 { return -a.credit/quantum + 1 }

func (a *account) self() *account { return a }

// ring gives the turn to its members.
type ring[M interface{ self() *account }] struct {
	members []M
	next    int // who has the turn
	round   int64
}

// pick returns the first member, from the one that has the turn, that can be served
// and has credit, and gives it the turn. If all that can be served are in debt, it
// lets rounds pass until one is not.
func (r *ring[M]) pick(can func(M) bool) (m M, ok bool) {
	for {
		wait := int64(never)
		for i := range r.members {
			at, round := r.next+i, r.round
			if at >= len(r.members) {
				at, round = at-len(r.members), round+1
			}
			m := r.members[at]
			if !can(m) {
				continue
			}
			if m.self().at(round) > 0 {
				r.next, r.round = at, round
				return m, true
			}
			wait = min(wait, m.self().debt())
		}
		if wait == never {
			return m, false
		}
		r.round += wait
	}
}

// tenant is one tenant's lanes.
type tenant struct {
	name string
	account
	lanes ring[*lane]
}

func (t *tenant) ready(now int64, skip []Skip) bool {
	for _, l := range t.lanes.members {
		for class := range classes {
			if l.ready[class] <= now && !l.skipped(skip) {
				return true
			}
		}
	}
	return false
}

// turn is what is to be served next: of one lane and class, by at most so many bytes.
type turn struct {
	tenant *tenant
	lane   *lane
	class  Class
	budget int64
}

// nextTurn says whose turn it is; false if nothing can be served. The caller holds
// q.mu.
func (q *Queue) nextTurn(now int64, skip []Skip) (turn, bool) {
	t, ok := q.tenants.pick(func(t *tenant) bool { return t.ready(now, skip) })
	if !ok {
		return turn{}, false
	}
	for class := range classes {
		l, ok := t.lanes.pick(func(l *lane) bool { return l.ready[class] <= now && !l.skipped(skip) })
		if ok {
			return turn{t, l, class, min(t.credit, l.credit)}, true
		}
	}
	return turn{}, false
}

// forgiven is how many rounds pass when nothing is left to serve: enough for any debt.
const forgiven = 1 << 20

// forgive is called when nothing was left to serve: what happened before says nothing
// about fairness any more. The caller holds q.mu.
func (q *Queue) forgive() {
	q.tenants.round += forgiven
	for _, t := range q.tenants.members {
		t.lanes.round += forgiven
	}
	if len(q.lanes) > q.pruneAt {
		q.prune()
		q.pruneAt = minLanes + 2*len(q.lanes)
	}
}

// minLanes is how many lanes are kept in memory without asking whether they have mail.
const minLanes = 64

// prune forgets lanes without mail. The caller holds q.mu.
func (q *Queue) prune() {
	old := q.tenants.members
	q.tenants = ring[*tenant]{}
	q.byTenant = map[string]*tenant{}
	for _, t := range old {
		for _, l := range t.lanes.members {
			if l.empty() {
				delete(q.lanes, l.key)
				continue
			}
			q.join(l)
		}
	}
}

// join lets a lane take part, with a new account. The caller holds q.mu.
func (q *Queue) join(l *lane) {
	name, _ := laneNames(l.key)
	t := q.byTenant[name]
	if t == nil {
		t = &tenant{name: name, account: account{round: q.tenants.round - 1}}
		q.byTenant[name] = t
		q.tenants.members = append(q.tenants.members, t)
	}
	l.tenant = t
	l.account = account{round: t.lanes.round - 1}
	t.lanes.members = append(t.lanes.members, l)
}
