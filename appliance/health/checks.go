package health

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/systemd"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func finding(code, severity, english, german, remedy string) Finding {
	return Finding{Condition: control.Condition{Code: code, Severity: severity, English: english, German: german, Remedy: remedy}}
}

func blocking(code, english, german, remedy string) Finding {
	f := finding(code, Fault, english, german, remedy)
	f.Blocks = true
	return f
}

// Boot finds what init reported. That a box is locked is shown by all who show the
// report; here it only keeps the box from being healthy.
func Boot(r report.Report) Check {
	var all []Finding
	if r.Locked != nil {
		all = append(all, blocking("boot.locked", "The box is locked; no mail flows.", "Die Box ist gesperrt; keine Nachricht wird befördert.", "do what the status says about the lock"))
	} else if !r.SecureBoot {
		all = append(all, blocking("boot.secureboot", "Secure Boot is off.", "Secure Boot ist aus; in den Firmware-Einstellungen einschalten.", "switch it on in the firmware's settings"))
	}
	if r.Lockdown != "integrity" && r.Lockdown != "confidentiality" {
		all = append(all, blocking("boot.lockdown", "The kernel is not locked down.", "Der Kernel ist nicht gegen Veränderung gesperrt; den Hersteller verständigen.", "tell the vendor"))
	}
	if r.Watchdog == "" {
		all = append(all, finding("boot.watchdog", Warning, "No hardware watchdog: a box that hangs does not come back by itself.",
			"Kein Hardware-Watchdog: eine hängende Box kommt nicht von selbst zurück; in den Firmware-Einstellungen einschalten.", "switch it on in the firmware's settings"))
	}
	if r.ESP == "" {
		all = append(all, finding("boot.esp", Warning, "The EFI system partition cannot be used; no update is possible.",
			"Die EFI-Systempartition ist nicht benutzbar; kein Update möglich; Platte prüfen.", "check the disk"))
	}
	if r.Variant == "dev" {
		all = append(all, finding("boot.dev", Notice, "This is a development build with throw-away keys; not for real mail.",
			"Dies ist ein Entwicklungsstand mit Wegwerf-Schlüsseln; nicht für echte Nachrichten.", "install a release"))
	}
	return func(context.Context) []Finding { return all }
}

// Units is what the service manager knows of them: appliance/systemd.
type Units interface {
	States(ctx context.Context, names ...string) (map[string]systemd.State, error)
	Failed(ctx context.Context) ([]string, error)
}

// Services finds services that do not run. All of needed must; relayd must if
// mail says so. A service counts as running when it told systemd that it is ready;
// systemd's watchdog sees that it stays so.
func Services(units Units, mail func() bool, needed ...string) Check {
	return func(ctx context.Context) []Finding {
		names := slices.Clone(needed)
		if mail() {
			names = append(names, "relayd.service")
		}
		states, err := units.States(ctx, names...)
		if err != nil {
			return []Finding{blocking("systemd", "The service manager does not answer: "+err.Error(),
				"Die Dienstverwaltung antwortet nicht; die Box neu starten: "+err.Error(), "restart the box")}
		}
		var all []Finding
		for _, name := range names {
			if s := states[name]; s.Active != "active" {
				all = append(all, blocking("service."+name, fmt.Sprintf("%s does not run (%s, %s).", name, s.Active, s.Sub),
					fmt.Sprintf("%s läuft nicht (%s, %s); eine Minute warten, dann die Box neu starten.", name, s.Active, s.Sub),
					"wait a minute; if it stays so, restart the box"))
			}
		}
		failed, err := units.Failed(ctx)
		if err != nil {
			return all // the next round asks again
		}
		for _, name := range failed {
			if !slices.Contains(names, name) {
				all = append(all, finding("failed."+name, Warning, name+" has failed.", name+" ist gescheitert; das Protokoll ansehen.", "look at the log"))
			}
		}
		return all
	}
}

// KeyList is keyd's control socket: *keyclient.Control.
type KeyList interface {
	List(ctx context.Context) ([]keyclient.Status, error)
}

// Keys finds keys that are missing, and certificates that are missing or cannot be
// used.
func Keys(keyd KeyList) Check {
	return func(ctx context.Context) []Finding {
		list, err := keyd.List(ctx)
		if err != nil {
			return []Finding{blocking("keyd", "The key service does not answer: "+err.Error(),
				"Der Schlüsseldienst antwortet nicht; die Box neu starten: "+err.Error(), "restart the box")}
		}
		var all []Finding
		for _, k := range list {
			all = append(all, key(k)...)
		}
		return all
	}
}

func key(k keyclient.Status) []Finding {
	name := string(k.Purpose)
	switch {
	case k.Fingerprint == "":
		return []Finding{blocking("key."+name, "The key "+name+" cannot be used: "+k.Fault,
			"Der Schlüssel "+name+" ist nicht benutzbar; TPM prüfen: "+k.Fault, "check the TPM")}
	case k.Fault != "":
		return []Finding{finding("certificate."+name, Fault, "The certificate of "+name+" cannot be used: "+k.Fault,
			"Das Zertifikat von "+name+" ist nicht benutzbar; ein neues ausstellen lassen und einspielen: "+k.Fault,
			"have a new one issued and install it (pforte key csr, pforte key install)")}
	case k.Certificate == nil:
		return []Finding{finding("certificate."+name, Notice, "No certificate for "+name+" yet.",
			"Noch kein Zertifikat für "+name+"; ausstellen lassen und einspielen.",
			"have one issued and install it (pforte key csr, pforte key install)")}
	}
	return nil
}

// Provisioned reports whether the relay has all that it needs of keys: then it has
// to accept mail.
func Provisioned(list []keyclient.Status) bool {
	for _, p := range []hsm.Purpose{hsm.ProviderClient, hsm.TenantServer} {
		if !slices.ContainsFunc(list, func(k keyclient.Status) bool {
			return k.Purpose == p && k.Certificate != nil && k.Fault == ""
		}) {
			return false
		}
	}
	return true
}

// Caller asks a local socket: *localapi.Client.
type Caller interface {
	Call(ctx context.Context, method string, in, out any) error
}

const methodStatus = "GET /v1/status"

// Relay finds a relay that does not accept mail although it could. Its findings
// about its queue and its certificates are its own; who shows the status joins them.
func Relay(relayd Caller, keyd KeyList, mail func() bool) Check {
	return func(ctx context.Context) []Finding {
		if !mail() {
			return nil
		}
		list, err := keyd.List(ctx)
		if err != nil || !Provisioned(list) {
			return nil // Keys says so
		}
		var status struct {
			Accepting bool   `json:"accepting"`
			Waiting   string `json:"waiting"`
		}
		if err := relayd.Call(ctx, methodStatus, nil, &status); err != nil {
			return []Finding{blocking("relay", "The relay does not answer: "+err.Error(),
				"Das Relay antwortet nicht; eine Minute warten, dann die Box neu starten: "+err.Error(), "wait a minute; if it stays so, restart the box")}
		}
		if status.Accepting {
			return nil
		}
		return []Finding{blocking("relay", "The relay accepts no mail: "+status.Waiting,
			"Das Relay nimmt keine Nachrichten an; eine Minute warten, dann Protokoll und Platte prüfen: "+status.Waiting,
			"wait a minute; if it stays so, look at the log and check the disk")}
	}
}

// Network finds what netd could not set up. It blocks nothing: most often it is a
// cable.
func Network(netd Caller) Check {
	return func(ctx context.Context) []Finding {
		var status manage.Network
		if err := netd.Call(ctx, methodStatus, nil, &status); err != nil {
			return []Finding{blocking("network", "The network service does not answer: "+err.Error(),
				"Der Netzdienst antwortet nicht; die Box neu starten: "+err.Error(), "restart the box")}
		}
		if status.Fault == "" {
			return nil
		}
		return []Finding{finding("network", Fault, "The network is not as configured: "+status.Fault,
			"Das Netz ist nicht wie konfiguriert; Kabel und Konfiguration prüfen: "+status.Fault, "check cables and configuration")}
	}
}

const (
	probeEvery = 10 * time.Minute
	probeName  = "health.probe"
	probePerm  = 0o600
	// Free space of the data volume, in parts of a hundred.
	fewPercent = 2
	lowPercent = 10
)

// Storage finds a data volume that is read-only, full, or refuses to be written.
func Storage(dir string) Check {
	var last time.Time
	return func(context.Context) []Finding {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return []Finding{sick(err)}
		}
		if fs.Flags&unix.ST_RDONLY != 0 {
			return []Finding{sick(unix.EROFS)}
		}
		if time.Since(last) > probeEvery {
			if err := durable.WriteFile(filepath.Join(dir, probeName), []byte("written to see that it can be\n"), probePerm); err != nil {
				return []Finding{sick(&os.PathError{Op: "write", Path: dir, Err: err})}
			}
			last = time.Now()
		}
		return room(fs.Bavail, fs.Blocks)
	}
}

func sick(err error) Finding {
	return blocking("storage", "The data volume cannot be written: "+err.Error(),
		"Der Datenbereich lässt sich nicht beschreiben; die Box neu starten, dann die Platte tauschen: "+err.Error(),
		"restart the box; if it stays so, replace the disk")
}

func room(free, total uint64) []Finding {
	switch {
	case free*100 < total*fewPercent:
		return []Finding{finding("storage.room", Fault, "The data volume is full.", "Der Datenbereich ist voll; wartende Nachrichten ansehen.", "look at the waiting mail")}
	case free*100 < total*lowPercent:
		return []Finding{finding("storage.room", Warning, "The data volume is nearly full.", "Der Datenbereich ist fast voll; wartende Nachrichten ansehen.", "look at the waiting mail")}
	}
	return nil
}
