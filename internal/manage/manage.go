// Package manage is the language of a box's management API: names of methods,
// what they take and give, and how a refusal looks. apid speaks it to the
// operator's command over HTTPS and, for the status alone, to the console over
// its local socket. The package has no behaviour.
//
// # The API
//
// HTTPS with client certificates on the management network, JSON both ways. A
// method is a verb and a path without a query. A GET has no body. A POST takes
// one JSON object, or nothing where it takes no argument; POST /v1/config takes
// the signed envelope as it is. 200 answers with the result; 4xx means that the
// box decided against, 5xx that it could not. Both answer {"error": {"code",
// "text", "remedy"}}: the code is for programs and never changes its meaning,
// the text is for people (fault, then remedy), and the remedy stands again alone.
//
// Who may do what stands beside each method in appliance/apid.
//
// Within /v1 fields and methods are only ever added. A reader ignores fields
// that it does not know, so that an older command can ask a newer box.
package manage

// Methods of the API. A segment in braces stands for one value.
const (
	MethodStatus      = "GET /v1/status"                      // → Status
	MethodHealth      = "GET /v1/health"                      // → Health
	MethodKeys        = "GET /v1/keys"                        // → Keys
	MethodCSR         = "POST /v1/keys/{purpose}/csr"         // Subject → Request
	MethodCertificate = "POST /v1/keys/{purpose}/certificate" // Chain → Key
	MethodConfig      = "POST /v1/config"                     // DSSE envelope → ConfigTaken
	MethodReleases    = "GET /v1/releases"                    // → Releases
	MethodUpdate      = "POST /v1/update/start"               // UpdateStart → UpdateStarted
	MethodPowerOff    = "POST /v1/power/off"                  // → Done
	MethodReboot      = "POST /v1/power/reboot"               // → Done
	MethodQueue       = "GET /v1/queue"                       // → Queue
	MethodAuditHead   = "GET /v1/audit/head"                  // → AuditHead

	MethodQueueList    = "POST /v1/queue/list"    // QueueFilter → QueuePage
	MethodQueueShow    = "POST /v1/queue/show"    // QueueID → QueueDetail
	MethodQueueHold    = "POST /v1/queue/hold"    // QueueAct → QueueActed
	MethodQueueRelease = "POST /v1/queue/release" // QueueAct → QueueActed: held messages go on, dead letters are tried again
	MethodQueueRetry   = "POST /v1/queue/retry"   // QueueAct → QueueActed: now, not at the next try
	MethodQueueBounce  = "POST /v1/queue/bounce"  // QueueAct → QueueActed: given up and reported
	MethodMailTrace    = "POST /v1/mail/trace"    // MailTraceQuery → MailTraces: accepted, handed over, dispatched, received, retrieved
	MethodMetrics      = "GET /metrics"           // → text in Prometheus' exposition format
)

// Codes of refusals that apid itself gives. Others come from the service behind
// it: update-refused, signature, not-newer, bad-certificate, ...
const (
	CodeDenied        = "denied"         // 403: the role may not
	CodeUnknownMethod = "unknown-method" // 404
	CodeBadRequest    = "bad-request"    // 400
	CodeTooLarge      = "too-large"      // 413
	CodeFaults        = "faults"         // 422: the configuration has faults; see Error.Faults
	CodeLocked        = "locked"         // 423: the data volume is locked
	CodeTooMany       = "too-many"       // 429: too many calls
	CodeInternal      = "internal"       // 500
	CodeUnavailable   = "unavailable"    // 503: a service behind apid does not answer
	CodeAudit         = "audit"          // 503: the act cannot be recorded, so it is not done
	CodeTimeout       = "timeout"        // 504

	CodeUnknownMessage = "unknown-message" // 404: never was in the queue, or its trace has expired
	CodeNothingChosen  = "nothing-chosen"  // 400: neither messages nor a filter
	CodeQueueSick      = "queue-sick"      // 503
)

// Error is why a call was refused or failed.
type Error struct {
	Code   string  `json:"code"`
	Text   string  `json:"text"`
	Remedy string  `json:"remedy,omitempty"`
	Faults []Fault `json:"faults,omitempty"` // with CodeFaults
}

// Error returns the text for people.
func (e *Error) Error() string { return e.Text }

// Refusal is the body of every answer but 200.
type Refusal struct {
	Error *Error `json:"error"`
}

// Done is the result of a method that has none.
type Done struct{}
