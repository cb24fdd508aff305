package smtpguard

import "time"

// Limits bounds what peers may use up. The zero value of a field means its
// default, named beside it.
type Limits struct {
	// MessageBytes is the greatest message, after removing transparency dots. It
	// is announced as SIZE (RFC 1870). A message of exactly this size passes.
	MessageBytes int64
	// Recipients of one transaction; more get 452 4.5.3.
	Recipients int
	// TextLine is the longest line of a message without its CRLF (RFC 5321
	// §4.5.3.1.6); a longer one is refused, because a next hop that breaks it
	// would break what was signed.
	TextLine int
	// Connections in total, and PerAddress from one IPv4 address or IPv6 /64.
	Connections int
	PerAddress  int

	Handshake time.Duration // for the TLS handshake
	Plain     time.Duration // for everything before it
	Command   time.Duration // for one whole command line (RFC 5321 §4.5.3.2.7)
	DataIdle  time.Duration // between two reads of a message
	DataStart time.Duration // grace before DataRate counts
	DataRate  int64         // bytes per second that a message must keep up on average
	Data      time.Duration // for one whole message
	Session   time.Duration // after this a connection gets 421 at its next command
	Write     time.Duration // for one answer

	SoftErrors int // 4xx and 5xx answers, after which each one is delayed by ErrorDelay
	HardErrors int // and after which the connection ends
	Junk       int // NOOP, RSET, VRFY and EHLO without a message between them
	AuthErrors int // refused authentications
	ErrorDelay time.Duration
}

// Defaults of Limits.
const (
	DefaultMessageBytes = 64 << 20
	DefaultRecipients   = 1000
	DefaultTextLine     = 998
	DefaultConnections  = 1000
	DefaultPerAddress   = 50

	DefaultHandshake = 30 * time.Second
	DefaultPlain     = time.Minute
	DefaultCommand   = 5 * time.Minute
	DefaultDataIdle  = 3 * time.Minute
	DefaultDataStart = time.Minute
	DefaultDataRate  = 500
	DefaultData      = time.Hour
	DefaultSession   = time.Hour
	DefaultWrite     = time.Minute

	DefaultSoftErrors = 10
	DefaultHardErrors = 20
	DefaultJunk       = 100
	DefaultAuthErrors = 3
	DefaultErrorDelay = time.Second
)

// Fixed bounds.
const (
	// maxCommandLine is the longest command with its CRLF: 512 octets of RFC 5321
	// §4.5.3.1.4 plus what SIZE, BODY, SMTPUTF8, AUTH and DSN may add.
	maxCommandLine = 2000
	// commandBuffer holds at least one command line; every connection has one.
	commandBuffer = 2048
	// bodyBuffer holds a whole TLS record; a connection has one while it sends a
	// message.
	bodyBuffer = 16 << 10
	// maxReplies is how many bytes of answers wait for the end of a pipelined group.
	maxReplies = 1 << 10
	// discardFactor times MessageBytes is read (and thrown away) of a message that
	// was refused, so that its sender can see the answer; then the connection ends.
	discardFactor = 2
	// maxPlainCommands is how many commands a peer may send without starting TLS.
	maxPlainCommands = 10
)

func (l Limits) withDefaults() Limits {
	def(&l.MessageBytes, DefaultMessageBytes)
	def(&l.Recipients, DefaultRecipients)
	def(&l.TextLine, DefaultTextLine)
	def(&l.Connections, DefaultConnections)
	def(&l.PerAddress, DefaultPerAddress)
	def(&l.Handshake, DefaultHandshake)
	def(&l.Plain, DefaultPlain)
	def(&l.Command, DefaultCommand)
	def(&l.DataIdle, DefaultDataIdle)
	def(&l.DataStart, DefaultDataStart)
	def(&l.DataRate, DefaultDataRate)
	def(&l.Data, DefaultData)
	def(&l.Session, DefaultSession)
	def(&l.Write, DefaultWrite)
	def(&l.SoftErrors, DefaultSoftErrors)
	def(&l.HardErrors, DefaultHardErrors)
	def(&l.Junk, DefaultJunk)
	def(&l.AuthErrors, DefaultAuthErrors)
	def(&l.ErrorDelay, DefaultErrorDelay)
	return l
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
