package config

import "net/netip"

// Document is the whole configuration of one box (format version 1). It is
// immutable once parsed: Parse returns it only without any fault, and with the
// defaults in the place of what was left out.
type Document struct {
	Version    int        `yaml:"version,omitempty"` // format, always 1
	Serial     uint64     `yaml:"serial,omitempty"`  // grows with every change; a box takes only a greater one
	Box        string     `yaml:"box,omitempty"`     // name of the box, a DNS label, shown everywhere
	Network    Network    `yaml:"network,omitempty"`
	Management Management `yaml:"management,omitempty"`
	Relay      Relay      `yaml:"relay,omitempty"`
	Provider   Provider   `yaml:"provider,omitempty"`
	Tenants    []Tenant   `yaml:"tenants,omitempty"`
}

// Role says what a network interface is for; each has its own firewall rules.
type Role string

// The three roles of design.md §4.
const (
	RoleTenant     Role = "tenant"
	RoleProvider   Role = "provider"
	RoleManagement Role = "management"
)

// Network describes links by what identifies them, and addresses by role.
type Network struct {
	Links       []Link       `yaml:"links,omitempty"`
	Bonds       []Bond       `yaml:"bonds,omitempty"`
	VLANs       []VLAN       `yaml:"vlans,omitempty"`
	Interfaces  []Interface  `yaml:"interfaces,omitempty"`
	Nameservers []netip.Addr `yaml:"nameservers,omitempty"`
}

// Link is a physical interface, found by MAC or by Path (a udev path such as
// "pci-0000:00:03.0"; exactly one of the two is set), renamed to Name. MTU 0 means 1500.
type Link struct {
	Name string `yaml:"name,omitempty"`
	MAC  string `yaml:"mac,omitempty"`
	Path string `yaml:"path,omitempty"`
	MTU  int    `yaml:"mtu,omitempty"`
}

// Bond joins Links. Mode is "active-backup" or "802.3ad".
type Bond struct {
	Name  string   `yaml:"name,omitempty"`
	Links []string `yaml:"links,omitempty"`
	Mode  string   `yaml:"mode,omitempty"`
	MTU   int      `yaml:"mtu,omitempty"`
}

// VLAN is an IEEE 802.1Q interface on Link (a link or a bond); ID is 1 to 4094.
type VLAN struct {
	Name string `yaml:"name,omitempty"`
	Link string `yaml:"link,omitempty"`
	ID   int    `yaml:"id,omitempty"`
	MTU  int    `yaml:"mtu,omitempty"`
}

// Interface gives a link, bond or VLAN its role and addresses. At most one
// IPv4 and one IPv6 gateway; each lies in one of Addresses.
type Interface struct {
	Name      string         `yaml:"name,omitempty"`
	Role      Role           `yaml:"role,omitempty"`
	Addresses []netip.Prefix `yaml:"addresses,omitempty"` // host address with prefix length
	Gateways  []netip.Addr   `yaml:"gateways,omitempty"`
	Routes    []Route        `yaml:"routes,omitempty"`
}

// Route sends To (masked) through Via, which lies in the interface's network.
type Route struct {
	To  netip.Prefix `yaml:"to,omitempty"`
	Via netip.Addr   `yaml:"via,omitempty"`
}

// Management says who may administer the box over the management network.
type Management struct {
	Port    uint16          `yaml:"port,omitempty"` // 0 means layout.PortManagement
	From    []netip.Prefix  `yaml:"from,omitempty"` // who may connect; empty means the interface's own networks
	Roles   []RoleAuthority `yaml:"roles,omitempty"`
	Updates Updates         `yaml:"updates,omitempty"`
}

// RoleAuthority gives everyone whose client certificate chains to CA the role
// Name: "owner", "hosting" or "monitor".
type RoleAuthority struct {
	Name string `yaml:"name,omitempty"`
	CA   string `yaml:"ca,omitempty"` // PEM, one or more certificates
}

// Updates are the base URLs of the two TUF repositories (http or https; what
// they serve is signed). Each holds metadata/ and targets/.
type Updates struct {
	Vendor string `yaml:"vendor,omitempty"`
	Owner  string `yaml:"owner,omitempty"`
}

// Relay says how long mail is tried. DelayNotices are the ages of a message at
// which its sender is told that it still waits (1h and 3h if left out, none with
// a single 0s); after GiveUp (48h) it goes back.
type Relay struct {
	DelayNotices []Duration `yaml:"delayNotices,omitempty"`
	GiveUp       Duration   `yaml:"giveUp,omitempty"`
}

// Provider is the De-Mail provider (DMDA) behind the box.
type Provider struct {
	Name        string   `yaml:"name,omitempty"`        // the provider's own domain, home of its system addresses
	Host        string   `yaml:"host,omitempty"`        // host name or address that overrides SRV; required in version 1
	Port        uint16   `yaml:"port,omitempty"`        // 0 means layout.PortProvider
	CA          string   `yaml:"ca,omitempty"`          // PEM: issues the provider's server and client certificates
	ServerNames []string `yaml:"serverNames,omitempty"` // DNS names, one of which the server's certificate must carry
	ClientNames []string `yaml:"clientNames,omitempty"` // DNS names, one of which the provider's client certificate must carry when it pushes to us
	Domains     []string `yaml:"domains,omitempty"`     // De-Mail domains: an address in one of them or below is a De-Mail address
	CRL         []string `yaml:"crl,omitempty"`         // URLs of the revocation lists of CA, DER or PEM; empty: none is asked, and the health says so

	SignatureAuthorities []SignatureAuthority `yaml:"signatureAuthorities,omitempty"`
}

// SignatureAuthority is an authority besides the provider's own whose
// certificates may sign De-Mails: that of another provider.
type SignatureAuthority struct {
	Name string   `yaml:"name,omitempty"`
	CA   string   `yaml:"ca,omitempty"`  // PEM
	CRL  []string `yaml:"crl,omitempty"` // URLs of its revocation lists, as Provider.CRL
}

// Direction of a tenant's domain or of a mapping.
type Direction string

// Directions. DirectionNone is for mappings only.
const (
	DirectionBoth    Direction = "both"
	DirectionSend    Direction = "send"
	DirectionReceive Direction = "receive"
	DirectionNone    Direction = "none"
)

// Tenant is one authority with its De-Mail account.
type Tenant struct {
	ID           string            `yaml:"id,omitempty"`           // a DNS label
	Name         string            `yaml:"name,omitempty"`         // name of the account's holder
	Account      string            `yaml:"account,omitempty"`      // De-Mail address of the account
	Postmaster   string            `yaml:"postmaster,omitempty"`   // e-mail address that gets what nobody else can get
	Language     string            `yaml:"language,omitempty"`     // "de" (default) or "en"
	MaxSize      int64             `yaml:"maxSize,omitempty"`      // bytes of a message, 0 means 64 MiB
	Integrity    string            `yaml:"integrity,omitempty"`    // what happens to a De-Mail whose proof of integrity fails: "refuse" (default), "quarantine" or "mark"
	KeepReceived bool              `yaml:"keepReceived,omitempty"` // leave internal Received fields in what goes out
	Rates        Rates             `yaml:"rates,omitempty"`
	Clients      []Client          `yaml:"clients,omitempty"`
	Domains      []Domain          `yaml:"domains,omitempty"`
	Options      []DispatchDefault `yaml:"options,omitempty"`
	Keywords     []Keyword         `yaml:"keywords,omitempty"`
	Mappings     []Mapping         `yaml:"mappings,omitempty"`
	MappingTable string            `yaml:"mappingTable,omitempty"` // more mappings, as CSV (package mapping)
	Inbound      Inbound           `yaml:"inbound,omitempty"`
}

// Policies of Tenant.Integrity.
const (
	IntegrityRefuse     = "refuse"
	IntegrityQuarantine = "quarantine"
	IntegrityMark       = "mark"
)

// Rates bounds what a tenant's systems together may hand in; 0 is no limit of
// the tenant's own.
type Rates struct {
	Connections         int `yaml:"connections,omitempty"`
	MessagesPerMinute   int `yaml:"messagesPerMinute,omitempty"`
	RecipientsPerMinute int `yaml:"recipientsPerMinute,omitempty"`
}

// Dispatch options by the names that stand in DispatchDefault.Ask and Keyword.Ask.
const (
	AskDispatch      = "confirm-dispatch"
	AskReceipt       = "confirm-receipt"
	AskRetrieve      = "confirm-retrieve" // needs AskPrivate
	AskPrivate       = "private"
	AskAuthoritative = "authoritative"
)

// DispatchDefault is what a sender asks for whose message says nothing about
// dispatch options. Sender is an e-mail or De-Mail address, "*@domain", or "*";
// an exact address counts before a domain, a domain before "*". An empty Ask asks for nothing.
type DispatchDefault struct {
	Sender string   `yaml:"sender,omitempty"`
	Ask    []string `yaml:"ask,omitempty"`
}

// Keyword in a subject asks for dispatch options.
type Keyword struct {
	Text string   `yaml:"text,omitempty"`
	Ask  []string `yaml:"ask,omitempty"`
}

// Client is a system of the tenant that may hand in mail. It proves itself by a
// client certificate that chains to CA and carries one of Names, by one with
// exactly Fingerprint (SHA-256 of the DER certificate, 64 hex digits), or by User
// and Secret from one of Networks. Networks narrows a certificate, too.
//
// With Application it is a line-of-business application (Fachverfahren) and must
// name its Senders.
type Client struct {
	Name        string         `yaml:"name,omitempty"`
	CA          string         `yaml:"ca,omitempty"`
	Names       []string       `yaml:"names,omitempty"`
	Fingerprint string         `yaml:"fingerprint,omitempty"`
	User        string         `yaml:"user,omitempty"`   // for SMTP AUTH; unique on the box
	Secret      string         `yaml:"secret,omitempty"` // its hash: $argon2id$v=19$m=…,t=…,p=…$salt$hash (pforte tenant secret)
	Networks    []netip.Prefix `yaml:"networks,omitempty"`
	Application bool           `yaml:"application,omitempty"`
	Senders     []string       `yaml:"senders,omitempty"` // addresses or "*@domain", e-mail or De-Mail; empty means all of the tenant's
	Class       string         `yaml:"class,omitempty"`   // "urgent", "normal" (default) or "bulk"
}

// Priority classes of a Client.
const (
	ClassUrgent = "urgent"
	ClassNormal = "normal"
	ClassBulk   = "bulk"
)

// Domain is a De-Mail domain of the tenant: exactly this one, not those below
// it, which may belong to others. CatchAll, if set, is the e-mail
// address that gets what no mapping names; empty means such mail is refused.
type Domain struct {
	Name      string    `yaml:"name,omitempty"`
	Direction Direction `yaml:"direction,omitempty"`
	CatchAll  string    `yaml:"catchAll,omitempty"`
}

// Mapping ties an e-mail address of the tenant to one of its De-Mail addresses
// in the direction given, both if left out; with "*@domain" on both sides it ties
// whole domains. Package mapping says what directions and rules mean. An e-mail
// address, and the domain of a rule, is mapped by one tenant only: they belong to
// one authority, and the same one at two is a mistake that would carry De-Mails
// into a stranger's mail system.
type Mapping struct {
	Mail      string    `yaml:"mail,omitempty"`
	DeMail    string    `yaml:"deMail,omitempty"`
	Direction Direction `yaml:"direction,omitempty"`
}

// Inbound says where the tenant's De-Mails go.
type Inbound struct {
	Servers []Server `yaml:"servers,omitempty"`
	CA      string   `yaml:"ca,omitempty"`    // PEM: issues the servers' certificates
	Names   []string `yaml:"names,omitempty"` // DNS names, one of which the certificate must carry; empty means the server's Host
}

// Server is one next hop. TLS is "starttls" (default, and required) or
// "implicit". A lower Order is tried first; within one order servers share by
// Weight (as SRV records do, RFC 2782).
type Server struct {
	Host        string   `yaml:"host,omitempty"`
	Port        uint16   `yaml:"port,omitempty"` // 0 means 25 with starttls, 465 with implicit
	TLS         string   `yaml:"tls,omitempty"`
	Order       int      `yaml:"order,omitempty"`
	Weight      int      `yaml:"weight,omitempty"`
	Fingerprint string   `yaml:"fingerprint,omitempty"` // SHA-256 of its certificate in hex, instead of authority and names
	Names       []string `yaml:"names,omitempty"`       // instead of Inbound.Names
	Fallback    bool     `yaml:"fallback,omitempty"`    // only when no other server takes mail
}
