// Package clauses is the table of what De-Mail's rules ask of the gateway, and of
// the code and the tests that carry each rule: the way from a clause of BSI
// TR-01201 to the place that keeps it, and back.
//
// Each Clause names where it stands, what it asks in one sentence of our own, the
// declarations that carry it out, and the tests that fail when they do not. Check
// reads the source tree and reports every clause without code or test, and every
// name that the tree does not have (any more). The package's own test runs it, so
// that such a clause fails the build. `make trace` prints the table.
//
// Names of code are "folder.Name", "folder.Type.Method" or, for a file's unexported
// parts, the same with small letters. Names of tests are "folder.TestName"; what
// follows a slash is a text that must stand in the test's file, such as the name of
// a row in its table.
//
// It proves that the names exist, not that the tests are good. Clauses that bind
// providers and not gateways are left out; those that are the gateway's and not
// carried yet stand in Open, with the reason, and are printed with the rest.
package clauses

// Clause is one demand.
type Clause struct {
	ID    string   // where it stands: part of TR-01201, or another source
	Asks  string   // what it asks of the gateway
	Code  []string // declarations that carry it out
	Tests []string // tests that fail without them
}

// Gap is a demand that nothing carries yet.
type Gap struct {
	ID   string
	Asks string
	Why  string
}
