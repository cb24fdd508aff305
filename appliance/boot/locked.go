package boot

import (
	"errors"
	"fmt"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/volume"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/seal"
)

// Reasons for being locked that no other package names.
var (
	errSecureBootOff = errors.New("secure boot is off")
	errEnrol         = errors.New("enrolling the secure boot keys failed")
	errNoTPM         = errors.New("no TPM 2.0 answers")
	errNoDisk        = errors.New("the disk that the box booted from was not found")
	errManyDisks     = errors.New("several disks look like the one that the box booted from")
	errNoData        = errors.New("the boot disk has no data partition")
	errMount         = errors.New("the data volume cannot be mounted")
)

// reason ties an error to what people are told. The first that matches counts.
type reason struct {
	err             error
	code            string
	english, german string
}

func reasons() []reason {
	return []reason{
		{errSecureBootOff, "secure-boot-off",
			"Secure Boot is off. Switch it on in the firmware's settings, or put the firmware into setup mode to enrol our keys.",
			"Secure Boot ist aus. In den Firmware-Einstellungen einschalten oder die Firmware in den Setup-Modus versetzen, damit unsere Schlüssel eingetragen werden."},
		{errEnrol, "enrolment-failed",
			"The firmware did not take our Secure Boot keys. Delete all Secure Boot keys in its settings and restart.",
			"Die Firmware hat unsere Secure-Boot-Schlüssel nicht angenommen. In ihren Einstellungen alle Secure-Boot-Schlüssel löschen und neu starten."},
		{hsm.ErrLockedOut, "tpm-locked-out",
			"The TPM refuses tries for now. Leave the box switched on for a day, then restart.",
			"Das TPM verweigert vorerst weitere Versuche. Die Box einen Tag eingeschaltet lassen, dann neu starten."},
		{errNoTPM, "tpm-missing",
			"No TPM 2.0 answers. Switch it on in the firmware's settings.",
			"Kein TPM 2.0 antwortet. In den Firmware-Einstellungen einschalten."},
		{seal.ErrChangedTPM, "tpm-changed",
			"This is not the TPM that locked the data, or it was cleared. Put the disk back into its box, or use the owner's recovery key.",
			"Dies ist nicht das TPM, das die Daten verschlossen hat, oder es wurde gelöscht. Die Platte in ihre Box zurücksetzen oder den Wiederherstellungsschlüssel des Eigentümers verwenden."},
		{seal.ErrUnmeasured, "tpm-unmeasured",
			"The firmware measures nothing into the TPM. Switch measured boot on in its settings.",
			"Die Firmware misst nichts in das TPM. In ihren Einstellungen den gemessenen Start einschalten."},
		{seal.ErrState, "boot-state-changed",
			"The Secure Boot keys or settings are not those under which the data was locked. Restore them, or use the owner's recovery key.",
			"Die Secure-Boot-Schlüssel oder -Einstellungen sind nicht die, unter denen die Daten verschlossen wurden. Wiederherstellen oder den Wiederherstellungsschlüssel des Eigentümers verwenden."},
		{seal.ErrForeign, "key-foreign",
			"The key on the disk was not made by this box. Somebody may have changed the disk: tell the owner.",
			"Der Schlüssel auf der Platte stammt nicht von dieser Box. Möglicherweise wurde die Platte verändert: den Eigentümer verständigen."},
		{volume.ErrHeader, "volume-header",
			"The header of the data volume was changed. Somebody may have changed the disk: tell the owner.",
			"Der Kopf des Datenbereichs wurde verändert. Möglicherweise wurde die Platte verändert: den Eigentümer verständigen."},
		{seal.ErrFormat, "volume-header",
			"The sealed key on the disk cannot be read. Somebody may have changed the disk: tell the owner.",
			"Der versiegelte Schlüssel auf der Platte ist unlesbar. Möglicherweise wurde die Platte verändert: den Eigentümer verständigen."},
		{volume.ErrForeign, "volume-foreign",
			"The data partition holds something else. If it may go, overwrite its beginning with zeros and restart.",
			"Die Datenpartition enthält etwas anderes. Wenn es weg darf, ihren Anfang mit Nullen überschreiben und neu starten."},
		{volume.ErrTooSmall, "volume-too-small",
			"The data partition is too small. Use a larger disk.",
			"Die Datenpartition ist zu klein. Eine größere Platte verwenden."},
		{volume.ErrKey, "volume-key",
			"The TPM's key does not open the data volume. Use the owner's recovery key.",
			"Der Schlüssel des TPM öffnet den Datenbereich nicht. Den Wiederherstellungsschlüssel des Eigentümers verwenden."},
		{volume.ErrFileSystem, "volume-damaged",
			"The file system of the data volume is damaged. Replace the disk and restore the box from its backup.",
			"Das Dateisystem des Datenbereichs ist beschädigt. Die Platte tauschen und die Box aus der Sicherung wiederherstellen."},
		{errMount, "volume-mount",
			"The data volume is open but cannot be mounted. Replace the disk and restore the box from its backup.",
			"Der Datenbereich ist offen, lässt sich aber nicht einhängen. Die Platte tauschen und die Box aus der Sicherung wiederherstellen."},
		{errManyDisks, "disk-ambiguous",
			"Several disks look like the boot disk. Remove the copies and restart.",
			"Mehrere Platten sehen wie die Startplatte aus. Die Kopien entfernen und neu starten."},
		{errNoData, "data-missing",
			"The boot disk has no data partition. Install the box again.",
			"Die Startplatte hat keine Datenpartition. Die Box neu installieren."},
		{errNoDisk, "disk-missing",
			"The boot disk was not found. Check the disk and its cable.",
			"Die Startplatte wurde nicht gefunden. Platte und Kabel prüfen."},
	}
}

// faultOf tells people why the box is locked.
func faultOf(err error) report.Fault {
	for _, r := range reasons() {
		if errors.Is(err, r.err) {
			return report.Fault{Code: r.code, English: r.english, German: r.german, Detail: err.Error()}
		}
	}
	return report.Fault{
		Code:    "internal",
		English: "The data volume could not be opened. Restart; if that does not help, send this report to the vendor.",
		German:  "Der Datenbereich ließ sich nicht öffnen. Neu starten; hilft das nicht, diesen Bericht an den Hersteller senden.",
		Detail:  err.Error(),
	}
}

// lock makes this a locked boot. The first reason counts: what follows is often
// its consequence.
func (b *box) lock(err error) {
	if b.report.Locked != nil {
		return
	}
	fault := faultOf(err)
	b.report.Locked = &fault
	b.mark("boot.locked", "why", fault.Code, "detail", fault.Detail, "uptime", uptime())
	fmt.Fprintf(b.console, "\nThe box is locked; no mail flows. %s\nDie Box ist gesperrt; keine Nachricht wird befördert. %s\n\n",
		fault.English, fault.German)
}
