package config

import "net/netip"

// Document is the whole configuration of one box (format version 1). It is
// immutable once parsed: Parse returns it only without any fault.
type Document struct {
	Version    int    // format, always 1
	Serial     uint64 // grows with every change; a box takes only a greater one
	Box        string // name of the box, a DNS label, shown everywhere
	Network    Network
	Management Management
	Provider   Provider
	Tenants    []Tenant
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
	Links       []Link
	Bonds       []Bond
	VLANs       []VLAN
	Interfaces  []Interface
	Nameservers []netip.Addr
}

// Link is a physical interface, found by MAC or by Path (a udev path such as
// "pci-0000:00:03.0"; exactly one of the two is set), renamed to Name. MTU 0 means 1500.
type Link struct {
	Name string
	MAC  string
	Path string
	MTU  int
}

// Bond joins Links. Mode is "active-backup" or "802.3ad".
type Bond struct {
	Name  string
	Links []string
	Mode  string
	MTU   int
}

// VLAN is an IEEE 802.1Q interface on Link (a link or a bond); ID is 1 to 4094.
type VLAN struct {
	Name string
	Link string
	ID   int
	MTU  int
}

// Interface gives a link, bond or VLAN its role and addresses. At most one
// IPv4 and one IPv6 gateway; each lies in one of Addresses.
type Interface struct {
	Name      string
	Role      Role
	Addresses []netip.Prefix // host address with prefix length
	Gateways  []netip.Addr
	Routes    []Route
}

// Route sends To (masked) through Via, which lies in the interface's network.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Management says who may administer the box over the management network.
type Management struct {
	Port    uint16         // 0 means layout.PortManagement
	From    []netip.Prefix // who may connect; empty means the interface's own networks
	Roles   []RoleAuthority
	Updates Updates
}

// RoleAuthority gives everyone whose client certificate chains to CA the role
// Name: "owner", "hosting" or "monitor".
type RoleAuthority struct {
	Name string
	CA   string // PEM, one or more certificates
}

// Updates are the base URLs of the two TUF repositories (http or https; what
// they serve is signed). Each holds metadata/ and targets/.
type Updates struct {
	Vendor string
	Owner  string
}

// Provider is the De-Mail provider (DMDA) behind the box.
type Provider struct {
	Name        string   // the provider's own domain, home of its system addresses
	Host        string   // host name or address that overrides SRV; required in version 1
	Port        uint16   // 0 means layout.PortProvider
	CA          string   // PEM: issues the provider's server and client certificates
	ServerNames []string // DNS names, one of which the server's certificate must carry
	ClientNames []string // DNS names, one of which the provider's client certificate must carry when it pushes to us
	Domains     []string // De-Mail domains: an address in one of them or below is a De-Mail address
	CRL         []string // URLs of the revocation lists of CA, DER or PEM; empty: none is asked, and the health says so
}

// Direction of a tenant's domain.
type Direction string

// Directions.
const (
	DirectionBoth    Direction = "both"
	DirectionSend    Direction = "send"
	DirectionReceive Direction = "receive"
)

// Tenant is one authority with its De-Mail account.
type Tenant struct {
	ID         string // a DNS label
	Name       string // name of the account's holder
	Account    string // De-Mail address of the account
	Postmaster string // e-mail address that gets what nobody else can get
	Language   string // "de" (default) or "en"
	MaxSize    int64  // bytes of a message, 0 means 64 MiB
	Clients    []Client
	Domains    []Domain
	Mappings   []Mapping
	Inbound    Inbound
}

// Client is a system of the tenant that may hand in mail: a client certificate
// that chains to CA and carries one of Names, or one with exactly Fingerprint
// (SHA-256 of the DER certificate, 64 hex digits). Networks narrows it further.
type Client struct {
	Name        string
	CA          string
	Names       []string
	Fingerprint string
	Networks    []netip.Prefix
}

// Domain is a De-Mail domain of the tenant. CatchAll, if set, is the e-mail
// address that gets what no mapping names; empty means such mail is refused.
type Domain struct {
	Name      string
	Direction Direction
	CatchAll  string
}

// Mapping ties an e-mail address of the tenant to one of its De-Mail
// addresses, both ways.
type Mapping struct {
	Mail   string
	DeMail string
}

// Inbound says where the tenant's De-Mails go.
type Inbound struct {
	Servers []Server
	CA      string   // PEM: issues the servers' certificates
	Names   []string // DNS names, one of which the certificate must carry; empty means the server's Host
}

// Server is one next hop, tried in order. TLS is "starttls" (default, and
// required) or "implicit".
type Server struct {
	Host string
	Port uint16 // 0 means 25 with starttls, 465 with implicit
	TLS  string
}
