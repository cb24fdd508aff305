module gitlab.opencode.de/pforte/pforte

go 1.26.0

tool honnef.co/go/tools/cmd/staticcheck

require (
	github.com/CycloneDX/cyclonedx-go v0.12.0 // the bill of materials in manifest.json
	github.com/beevik/etree v1.7.0 // the XML tree that goxmldsig works on
	github.com/cespare/xxhash/v2 v2.3.0 // check sums of bodies in the mail queue
	github.com/cockroachdb/pebble/v2 v2.1.7 // the mail queue's index: synced batches, and a file system that tests can cut
	github.com/coreos/go-systemd/v22 v22.7.0 // sockets from systemd, readiness, watchdog, its private D-Bus, unit files
	github.com/diskfs/go-diskfs v1.9.4 // GPT partition tables of the disk image
	github.com/emersion/go-sasl v0.0.0-20241020182733-b788ff22d5a6 // SMTP AUTH of tenants
	github.com/emersion/go-smtp v0.25.1 // the SMTP engine behind smtpguard
	github.com/foxboron/go-tpm-keyfiles v0.0.0-20260902202739-8c9c2d1005f4 // TPM 2.0 key files (TSS2 PEM)
	github.com/foxboron/go-uefi v0.0.0-20251010190908-d29549a44f29 // Authenticode and PKCS#7 signatures for Secure Boot
	github.com/godbus/dbus/v5 v5.2.4 // errors of systemd's private D-Bus
	github.com/google/go-cmp v0.7.0 // differences in tests
	github.com/google/go-tpm v0.9.9-0.20260124013517-8f8f42cba0de // commands to the TPM
	github.com/google/licensecheck v0.3.1 // licences of Go modules for the bill of materials
	github.com/google/nftables v0.3.0 // the packet filter
	github.com/google/uuid v1.6.0 // GPT identifiers, EFI vendor identifiers
	github.com/klauspost/compress v1.20.3 // zstd for the initramfs
	github.com/mdlayher/netlink v1.7.3-0.20250113171957-fbb4dce95f42 // the socket under google/nftables: its buffers
	github.com/rogpeppe/go-internal v1.16.0 // testscript: commands tested by scripts
	github.com/russellhaering/goxmldsig v1.6.1 // XML signatures of De-Mail confirmations
	github.com/secure-systems-lab/go-securesystemslib v0.11.1 // DSSE envelopes around configurations
	github.com/sigstore/sigstore v1.10.6 // the signer type that go-tuf asks for
	github.com/spf13/cobra v1.10.2 // the operator's command line
	github.com/spf13/pflag v1.0.9 // flags of the operator's command line
	github.com/theupdateframework/go-tuf/v2 v2.4.2 // update repositories of vendor and owner
	github.com/u-root/gobusybox/src v0.3.0 // merges the box's commands into one program
	github.com/u-root/mkuimage v0.2.0 // cpio archives: the initramfs
	github.com/u-root/u-root v0.16.0 // EFI variables through efivarfs
	github.com/u-root/uio v0.0.0-20240224005618-d2acac8f3701 // the log type that gobusybox asks for
	github.com/ulikunitz/xz v0.5.15 // Debian's kernel modules are packed with xz
	github.com/vishvananda/netlink v1.3.1 // links, addresses, routes, bonds, VLANs
	go.yaml.in/yaml/v3 v3.0.6 // the configuration document, with line numbers for faults
	golang.org/x/crypto v0.58.0 // ASN.1 of Authenticode and PKCS#7 (cryptobyte); argon2id for secrets of systems that log in
	golang.org/x/mod v0.42.0 // go.mod for the rules; versions of releases in order
	golang.org/x/net v0.62.0 // ICMP for tests of the packet filter; a bound on connections in the simulated provider
	golang.org/x/sys v0.49.0 // system calls that the standard library does not have
	golang.org/x/term v0.47.0 // is it a terminal: progress bars or plain lines
	golang.org/x/text v0.43.0 // character sets of subjects in which keywords are looked for
	golang.org/x/time v0.12.0 // rate limits
	golang.org/x/tools v0.52.0 // txtar: folders of broken inputs in one file
	gvisor.dev/gvisor v0.0.0-20260224225140-573d5e7127a8 // the TCP/IP stack of the virtual networks in tests
)

require (
	github.com/prometheus/client_golang v1.23.2 // metrics in the format that monitoring reads
	github.com/prometheus/common v0.66.1 // the text form of metrics
)

require (
	github.com/BurntSushi/toml v1.4.1-0.20240526193622-a339e1f7089c // indirect
	github.com/DataDog/zstd v1.5.7 // indirect
	github.com/RaduBerinde/axisds v0.1.0 // indirect
	github.com/RaduBerinde/btreemap v0.0.0-20250419174037-3d62b7205d54 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/cockroachdb/crlib v0.0.0-20241112164430-1264a2edc35b // indirect
	github.com/cockroachdb/errors v1.11.3 // indirect
	github.com/cockroachdb/logtags v0.0.0-20230118201751-21c54148d20b // indirect
	github.com/cockroachdb/redact v1.1.5 // indirect
	github.com/cockroachdb/swiss v0.0.0-20260820225851-333444432258 // indirect
	github.com/cockroachdb/tokenbucket v0.0.0-20230807174530-cc333fc44b06 // indirect
	github.com/getsentry/sentry-go v0.27.0 // indirect
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/golang/snappy v0.0.5-0.20231225225746-43d5d4cd4e0e // indirect
	github.com/google/btree v1.1.2 // indirect
	github.com/google/go-containerregistry v0.20.7 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/jonboulle/clockwork v0.5.0 // indirect
	github.com/kr/pretty v0.3.1 // indirect
	github.com/kr/text v0.2.0 // indirect
	github.com/mdlayher/socket v0.5.1 // indirect
	github.com/minio/minlz v1.0.1-0.20250507153514-87eb42fe8882 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/pierrec/lz4/v4 v4.1.26 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/prometheus/client_model v0.6.2 // indirect
	github.com/prometheus/procfs v0.16.1 // indirect
	github.com/sigstore/protobuf-specs v0.5.0 // indirect
	github.com/spf13/afero v1.9.3 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	go.yaml.in/yaml/v2 v2.4.2 // indirect
	golang.org/x/exp v0.0.0-20260312153236-7ab1446f8b90 // indirect
	golang.org/x/exp/typeparams v0.0.0-20231108232855-2478ac86f678 // indirect
	golang.org/x/sync v0.24.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20250825161204-c5933d9347a5 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
	honnef.co/go/tools v0.8.2 // indirect
	mvdan.cc/sh/v3 v3.11.0 // indirect
)
