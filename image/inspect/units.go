package inspect

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// logins are the units by which systemd itself would give somebody a prompt, or
// let three keys restart the box. Absent ones must be masked, too: a unit of that
// name could still come from /run.
func logins() []string {
	return []string{
		"emergency.service", "rescue.service", "debug-shell.service", "getty.target", "console-getty.service",
		"getty@.service", "serial-getty@.service", "ctrl-alt-del.target",
	}
}

// checkMasks wants every login masked.
func checkMasks(t *tree) ([]Fault, error) {
	var out []Fault
	for _, name := range logins() {
		if u := (*t.units)[name]; u == nil || !u.masked {
			out = append(out, Fault{Path: path.Join(unitDirs()[0], name), Text: "is not masked, and would give somebody a prompt"})
		}
	}
	return out, nil
}

// checkPrograms wants every program that a unit starts.
func checkPrograms(t *tree) ([]Fault, error) {
	var out []Fault
	for _, u := range t.units.sorted() {
		for _, line := range u.lines("ExecStart", "ExecStartPre", "ExecStartPost", "ExecCondition", "ExecReload", "ExecStop", "ExecStopPost") {
			program := strings.TrimLeft(strings.Fields(line)[0], "-@:+!|")
			if !t.startable(program) {
				out = append(out, Fault{Path: u.path, Text: "starts " + program + ", which is not in the box"})
			}
		}
	}
	return out, nil
}

// startable finds a program as systemd does: by its path, or by its name in the
// folders of programs.
func (t *tree) startable(program string) bool {
	if path.IsAbs(program) {
		return t.executable(program)
	}
	return slices.ContainsFunc([]string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"}, func(dir string) bool {
		return t.executable(path.Join(dir, program))
	})
}

// accounts are the names in the first fields of /etc/passwd or /etc/group.
func (t *tree) accounts(file string) ([][]string, error) {
	text, err := t.readText(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out [][]string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, strings.Split(line, ":"))
		}
	}
	return out, err
}

// checkAccounts wants users who cannot log in, each with a number of its own.
func checkAccounts(t *tree) ([]Fault, error) {
	var out []Fault
	for file, fields := range map[string]int{"/etc/passwd": 7, "/etc/group": 4} {
		list, err := t.accounts(file)
		if err != nil {
			return nil, err
		}
		seen := map[string]string{}
		for _, f := range list {
			if len(f) != fields {
				out = append(out, Fault{Path: file, Text: "the line of " + f[0] + " has not " + string(rune('0'+fields)) + " fields"})
				continue
			}
			if first := seen[f[2]]; first != "" {
				out = append(out, Fault{Path: file, Text: f[0] + " has the number of " + first})
			}
			seen[f[2]] = f[0]
			if !slices.Contains([]string{"x", "!", "*"}, f[1]) {
				out = append(out, Fault{Path: file, Text: f[0] + " has a password, or needs none"})
			}
			if fields == 7 && (f[6] == "" || t.executable(f[6])) {
				out = append(out, Fault{Path: file, Text: f[0] + " has a login program"})
			}
		}
		if len(list) == 0 {
			out = append(out, Fault{Path: file, Text: "lists nobody, not even root"})
		}
	}
	return out, nil
}

// checkUsers wants every user and group that a unit names.
func checkUsers(t *tree) ([]Fault, error) {
	var out []Fault
	for file, keys := range map[string][]string{
		"/etc/passwd": {"User", "SocketUser"},
		"/etc/group":  {"Group", "SocketGroup", "SupplementaryGroups"},
	} {
		list, err := t.accounts(file)
		if err != nil {
			return nil, err
		}
		for _, u := range t.units.sorted() {
			for _, name := range u.values(keys...) {
				if !slices.ContainsFunc(list, func(f []string) bool { return f[0] == name }) {
					out = append(out, Fault{Path: u.path, Text: name + " is not in " + file})
				}
			}
		}
	}
	return out, nil
}

// checkReferences wants every unit that the boot asks for, starting from
// default.target. Of our own units, those that default.target wants itself, it
// also wants the order to make sense: no After= or Before= on what does not exist.
func checkReferences(t *tree) ([]Fault, error) {
	var out []Fault
	const start = "default.target"
	if (*t.units)[start] == nil {
		return []Fault{{Path: start, Text: "there is none: systemd would not know what to start"}}, nil
	}
	direct := (*t.units)[start].references()
	seen := map[string]bool{start: true}
	for todo := []string{start}; len(todo) > 0; todo = todo[1:] {
		u := (*t.units)[todo[0]]
		refs := u.references()
		ours := todo[0] == start || slices.Contains(direct, todo[0]) && path.Ext(todo[0]) == ".service"
		if ours {
			out = append(out, t.missing(u, u.values("After", "Before"), "its order names")...)
		}
		out = append(out, t.missing(u, refs, "it needs")...)
		for _, name := range refs {
			if next := (*t.units)[name]; next != nil && !next.masked && !seen[name] {
				seen[name] = true
				todo = append(todo, name)
			}
		}
	}
	return out, nil
}

// references are the units that a unit starts or needs. A socket, timer or path
// starts the service of its own name if it names no other.
func (u *unitFile) references() []string {
	out := u.values("Requires", "Requisite", "Wants", "BindsTo", "Upholds", "Sockets")
	started := u.values("Service", "Unit")
	if ext := path.Ext(u.path); len(started) == 0 && slices.Contains([]string{".socket", ".timer", ".path"}, ext) {
		started = []string{strings.TrimSuffix(path.Base(u.path), ext) + ".service"}
	}
	return slices.Concat(out, started, u.wants)
}

// missing are the faults of one unit's names. Mounts, slices and devices are
// units that systemd makes by itself.
func (t *tree) missing(u *unitFile, names []string, how string) []Fault {
	var out []Fault
	for _, name := range names {
		if slices.Contains([]string{".mount", ".slice", ".device", ".swap", ".scope"}, path.Ext(name)) {
			continue
		}
		switch other := (*t.units)[name]; {
		case other == nil:
			out = append(out, Fault{Path: u.path, Text: how + " " + name + ", which does not exist"})
		case other.masked:
			out = append(out, Fault{Path: u.path, Text: how + " " + name + ", which is masked"})
		}
	}
	return out
}

// checkListeners wants no unit in the image that listens on a network: where the
// box listens is the configuration's affair.
func checkListeners(t *tree) ([]Fault, error) {
	var out []Fault
	for _, u := range t.units.sorted() {
		for _, at := range u.values("ListenStream", "ListenDatagram", "ListenSequentialPacket") {
			if !strings.HasPrefix(at, "/") {
				out = append(out, Fault{Path: u.path, Text: "listens on " + at + ": network ports come from the configuration alone"})
			}
		}
	}
	return out, nil
}
