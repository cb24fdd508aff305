package clauses

// All is the table, in the order of the guideline. The slice belongs to the caller.
func All() []Clause {
	var all []Clause
	for _, part := range [][]Clause{gateway(), transport(), addresses(), format(), integrity(), confirmations()} {
		all = append(all, part...)
	}
	return all
}

// gateway is the security module's chapter on connecting through a gateway.
func gateway() []Clause {
	return []Clause{
		{"TR-01201 security module 10 (token)", "the gateway authenticates to the provider with a key that cannot be copied",
			[]string{"hsm/tpm.Store", "internal/dmda.NewSMTP"},
			[]string{"hsm/tpm.TestNeverExported", "internal/dmda.TestConnector", "internal/dmda/dmdatest.TestClientCertificates", "qemu/e2e.TestMail"}},
		{"TR-01201 security module 10 (system)", "only a registered system of a tenant may hand in mail",
			[]string{"internal/tenants.Snapshot.System", "internal/relay.outSession.identify", "internal/relay.outSession.authenticate"},
			[]string{"internal/tenants.TestSystemByCertificate", "internal/relay/daemon.TestStrangersAndPlainText"}},
		{"TR-01201 security module 10 (sender)", "envelope and header sender belong to the tenant that hands in",
			[]string{"internal/relay/letter.OwnSender", "internal/relay/letter.Letter.senders"},
			[]string{"internal/relay/daemon.TestRefusalsOut/ another tenant's sender", "internal/relay/daemon.TestRefusalsOut/ a second author who is a stranger"}},
		{"TR-01201 security module 10 (account)", "the mapping from tenant to account is exact: no address belongs to two",
			[]string{"internal/tenants.New", "internal/mapping.New"},
			[]string{"internal/tenants.TestBrokenDocuments/ two tenants with one domain", "internal/tenants.TestDomains", "internal/mapping.TestAllFaultsAtOnce"}},
		{"TR-01201 security module 10 (no leak)", "nothing meant for De-Mail leaves to the Internet",
			[]string{"internal/relay.outSession.Rcpt", "internal/tenants.Snapshot.IsDeMail"},
			[]string{"internal/relay/daemon.TestRefusalsOut/ a recipient outside of De-Mail", "internal/relay/daemon.TestRefusalsOut/ a recipient that looks like De-Mail"}},
		{"TR-01201 security module 10 (abuse)", "a locked token or account ends sending at once, and nothing is lost",
			[]string{"internal/dmda/dmdatest.Provider.LockToken", "internal/relay.Relay.judge"},
			[]string{"internal/dmda/dmdatest.TestLockAndDown", "internal/relay/daemon.TestTemporaryFailuresAreRetried"}},
		{"TR-01201 security module 10 (states)", "the operator can see what became of a message, without its content",
			[]string{"internal/queue.Queue.Trace"},
			[]string{"internal/queue.TestAttemptsAndResults", "internal/relay/daemon.TestControlSocket"}},
	}
}

// transport is how messages cross between gateway and provider.
func transport() []Clause {
	return []Clause{
		{"TR-03116-4 §2.1", "TLS 1.2 with forward secrecy and AEAD, or TLS 1.3, and nothing else",
			[]string{"internal/tlsprofile.Server", "internal/tlsprofile.Client", "internal/tlsprofile.CheckState"},
			[]string{"internal/tlsprofile.TestHandshakes", "internal/tlsprofile.TestCheckStateRefusesChaCha"}},
		{"TR-03116-4 §2.2", "keys are RSA of 3000 bits or ECC of P-256 at least",
			[]string{"internal/tlsprofile.CheckKey", "internal/demail.Algorithm.verify"},
			[]string{"internal/tlsprofile.TestCheckKey", "internal/demail.TestWeakKeys"}},
		{"TR-01201-3.3 (mutual)", "both sides of the provider's link authenticate with certificates, over implicit TLS",
			[]string{"internal/dmda.Trust.Verify", "internal/relay/daemon.Daemon.guards"},
			[]string{"internal/relay/daemon.TestOnlyTheProviderMayPush", "internal/dmda.TestConnector"}},
		{"TR-01201-3.3 (revocation)", "a peer's certificate is checked for revocation at least every 24 hours; a failed check is no connection",
			[]string{"internal/dmda.Revocation.CheckChain", "internal/dmda.Revocation.Refresh"},
			[]string{"internal/dmda.TestRevocation", "internal/dmda.TestListAges", "internal/dmda.TestRevocationNilAndUnconfigured"}},
		{"TR-01201-3.3 (kept open)", "a connection that is kept open is made anew long before the next check",
			[]string{"internal/nexthop.MaxReuseAge", "internal/nexthop.MaxReuseMessages"},
			[]string{"internal/nexthop.TestSecondServerAndStaleConnection"}},
		{"TR-01201-3.3 (size)", "messages of 45 MiB pass",
			[]string{"internal/smtpguard.DefaultMessageBytes", "internal/queue.Body"},
			[]string{"internal/relay/daemon.TestLargeMessages"}},
		{"TR-01201-3.3 (time)", "what waits is shown, and a warning comes long before the 4 hours are over",
			[]string{"internal/relay/daemon.Daemon.conditions"},
			[]string{"internal/relay/daemon.TestHealthy"}},
		{"TR-01201-3.3 §5.2.5", "waiting mail lies on an encrypted file system",
			[]string{"appliance/boot/volume.Volume"},
			[]string{"qemu/e2e.TestFirstBoot", "qemu/e2e.TestChangedTPM"}},
	}
}

// addresses is what a De-Mail address is.
func addresses() []Clause {
	return []Clause{
		{"TR-01201-2 (address)", "local part of at most 64, domain of at most 189, 253 characters in all, lower case, ASCII",
			[]string{"internal/demail.ParseAddress", "internal/demail.ParseDomain"},
			[]string{"internal/demail.TestParseAddress", "internal/demail.FuzzParseAddress"}},
		{"TR-01201-2 (institution)", "institutions have domains below a collective one, with further levels",
			[]string{"internal/demail.Address.In", "internal/tenants.Snapshot.IsDeMail"},
			[]string{"internal/demail.TestAddressIn", "internal/tenants.TestDomains"}},
		{"TR-01201-2 (system)", "a provider's system addresses are known in any letter case and never mapped",
			[]string{"internal/demail.IsSystem", "internal/demail.MessageType.SystemSender"},
			[]string{"internal/demail.TestIsSystem"}},
	}
}

// format is the message's header: TR-01201-3.4 §3.1.
func format() []Clause {
	return []Clause{
		{"TR-01201-3.4 §3.1 (case)", "field names are compared without regard to case",
			[]string{"internal/demail.Field.Is"}, []string{"internal/demail.TestRewrite", "internal/demail.TestStripProviderFields"}},
		{"TR-01201-3.4 §3.1 (first)", "of doubled fields the first from the top counts",
			[]string{"internal/demail.Header.Get"}, []string{"internal/demail.TestIntegrityAlgorithms", "internal/demail.TestOptions"}},
		{"TR-01201-3.4 §3.1 (others)", "fields that are not De-Mail's stay as they are",
			[]string{"internal/demail.ReadHeader", "internal/demail.Header.WriteTo"},
			[]string{"internal/demail.TestReadHeaderKeepsBytes", "internal/relay/letter.TestRewriteKeepsAllElse", "internal/relay/daemon.TestMailOut"}},
		{"TR-01201-3.4 §3.1 (provider)", "what a tenant's system writes into the provider's fields is removed",
			[]string{"internal/demail.StripProviderFields", "internal/relay/letter.Letter.strip"},
			[]string{"internal/demail.TestStripProviderFields", "internal/demail.TestProviderFieldsAndSenderFieldsDivideTheTable", "internal/relay/daemon.TestMailOut"}},
		{"TR-01201-3.4 §3.1 (body)", "the body is never rewritten",
			[]string{"internal/relay.outSession.finish", "internal/nexthop.Client.Send"},
			[]string{"internal/nexthop.TestDeliversByteForByte", "internal/relay.TestBodyPassesByteForByte", "internal/relay.FuzzOutgoing", "internal/relay/daemon.TestMailOut", "internal/relay/daemon.TestMailIn", "qemu/e2e.TestMail"}},
		{"TR-01201-3.4 §3.1.1", "each type of message has its table of fields that must, may and must not occur",
			[]string{"internal/demail.Rules", "internal/demail.Validate"},
			[]string{"internal/demail.TestValidate", "internal/demail.TestClasses"}},
		{"TR-01201-3.4 §3.1.1 (notification)", "a notification passes despite faults if its seven essential fields are well-formed",
			[]string{"internal/demail.Validate"}, []string{"internal/demail.TestValidateNotification"}},
		{"TR-01201-3.4 §3.1.2-6", "options are `yes` or `no`, case-sensitive, and absent means no",
			[]string{"internal/demail.OptionsFromHeader"}, []string{"internal/demail.TestOptions", "internal/relay/daemon.TestRefusalsOut/ bad option value"}},
		{"TR-01201-3.4 §3.1.4", "a confirmation of retrieve needs private, and is for public authorities only",
			[]string{"internal/demail.Options.Check"}, []string{"internal/demail.TestOptionsCheck", "internal/relay/daemon.TestRefusalsOut/ retrieve without private"}},
		{"TR-01201-3 (options)", "an option that cannot be met is refused, never weakened",
			[]string{"internal/relay/letter.Letter.dispatch"}, []string{"internal/relay/daemon.TestRefusalsOut/ Versandoption"}},
		{"TR-01201-3.4 §3.1.7", "x-de-mail-sender names one De-Mail address, and it is the tenant's",
			[]string{"internal/relay/letter.Letter.deMailSender"}, []string{"internal/relay/daemon.TestRefusalsOut/ x-de-mail-sender of another tenant"}},
		{"TR-01201-3.4 §3.1.8", "x-de-mail-chosen-recipient: to, cc and bcc, each key once at most",
			[]string{"internal/demail.ParseRecipients", "internal/demail.Recipients.Format"},
			[]string{"internal/demail.TestParseRecipients", "internal/demail.TestFormatRecipients", "internal/demail.FuzzParseRecipients"}},
		{"TR-01201-3.4 §3.1.8 (bcc)", "a blind copy is known to its recipient only",
			[]string{"internal/relay/letter.Letter.chosen", "internal/relay/letter.Letter.strip"},
			[]string{"internal/dmda/dmdatest.TestBlindCopies", "internal/relay/daemon.TestMailOut/ geheim", "internal/relay.FuzzOutgoing"}},
		{"TR-01201-3.4 §3.1.12", "the eight message types and their system senders",
			[]string{"internal/demail.MessageType.Class"}, []string{"internal/demail.TestClasses", "internal/demail.TestIsSystem"}},
		{"TR-01201-3.4 §3.1.14", "a certificate field stands there exactly if the message is signed",
			[]string{"internal/demail.Seal", "internal/demail.VerifyIntegrity"}, []string{"internal/demail.TestSealAgain", "internal/demail.TestVerifyFailures"}},
		{"TR-01201-3.4 §3.1.16", "versions 1.0, 1.1, 1.2, 1.7 and 1.8 are known",
			[]string{"internal/demail.KnownVersion"}, []string{"internal/demail.TestValidate"}},
		{"TR-01201-3.4 §3.1.17", "private-id is the sender's, of at most 1024 characters",
			[]string{"internal/demail.MaxPrivateID"}, []string{"internal/relay/daemon.TestRefusalsOut/ long private-id", "internal/demail.TestValidate"}},
	}
}

// integrity is x-de-mail-integrity.
func integrity() []Clause {
	return []Clause{
		{"TR-01201-3.4 §3.1.13 (a=)", "SHA-256, 384 and 512, alone or with RSA PKCS#1, ECDSA and RSASSA-PSS: all verify",
			[]string{"internal/demail.ParseAlgorithm", "internal/demail.Algorithm.verify"},
			[]string{"internal/demail.TestIntegrityAlgorithms", "internal/dmda/dmdatest.TestComposeProofs"}},
		{"TR-01201-3.4 §3.1.13 (c=)", "canonicalisation is simple/simple; l= is ignored",
			[]string{"internal/demail.VerifyIntegrity"}, []string{"internal/demail.TestBodyHash", "internal/demail.TestBodyLengthIsIgnored", "internal/demail.TestVerifyFailures"}},
		{"TR-01201-3.4 §3.1.13 (q=)", "the key comes from the certificate field, never from DNS; the certificate must be valid itself",
			[]string{"internal/demail.VerifyIntegrity"}, []string{"internal/demail.TestVerifyCertificate"}},
		{"TR-01201-3.4 §3.1.13 (b=)", "unsigned, b= is the header's hash",
			[]string{"internal/demail.VerifyIntegrity"}, []string{"internal/demail.TestVerifyUnsigned"}},
		{"TR-01201-3.4 §3.1.13 (h=)", "the signed fields in their order, doubled ones by the first from the top",
			[]string{"internal/demail.IntegrityFields"}, []string{"internal/demail.TestIntegrityAlgorithms", "internal/demail.TestVerifyFailures"}},
		{"TR-01201-3.4 §3.1.13 (must)", "what came in must prove its integrity",
			[]string{"internal/relay.inSession.take"},
			[]string{"internal/relay/daemon.TestRefusalsIn/ a changed body", "internal/relay/daemon.TestRefusalsIn/ a changed header", "internal/relay/daemon.TestRefusalsIn/ no proof"}},
		{"TR-01201-3.4 §3.1.13 (policy)", "without proof it is refused, held or marked, as its tenant wants it; what cannot be checked now is put off",
			[]string{"internal/relay.inSession.judge", "internal/relay.revocation.of"},
			[]string{"internal/relay.TestEveryAlgorithm", "internal/relay.TestIntegrityPolicies", "internal/relay.TestSignatureCertificates", "internal/relay/daemon.TestQuarantine"}},
		{"TR-01201-3.4 §3.1.13 (kept)", "what is delivered can still be verified: byte-identical below the trace fields",
			[]string{"internal/relay.arrival.fields"}, []string{"internal/relay/daemon.TestMailIn", "internal/relay.TestByteIdenticalBelowTheTrace", "internal/dmda/dmdatest.TestOpenSSLBelievesAStoredMessage"}},
	}
}

// confirmations are what providers send back.
func confirmations() []Clause {
	return []Clause{
		{"TR-01201-3.4 §3.5.1", "the subject of a confirmation begins with its kind",
			[]string{"internal/demail.MessageType.SubjectPrefix"}, []string{"internal/demail.TestClasses"}},
		{"TR-01201-3.4 §3.4.1", "XML and PDF in a multipart/mixed; the XML is found and read",
			[]string{"internal/demail/confirmation.Parse"}, []string{"internal/demail/confirmation.TestBodies", "internal/dmda/dmdatest.TestPDF"}},
		{"TR-01201-3.4 §3.5.1 (signature)", "a confirmation counts only with an enveloped XML signature that chains to a trusted authority",
			[]string{"internal/demail/confirmation.Parse", "internal/relay/daemon.connection.revoked"},
			[]string{"internal/demail/confirmation.TestForgeries", "internal/demail/confirmation.TestTrust", "internal/demail/confirmation.TestKeys",
				"internal/demail/confirmation.TestSignedElsewhere", "internal/relay/daemon.TestSignatureAuthorityRevokes"}},
		{"TR-01201-3.4 §3.5.1 (original)", "a confirmation tells the original's header and its integrity field, and comes back to its trace",
			[]string{"internal/demail/confirmation.Parse", "internal/demail.ParseProof"},
			[]string{"internal/demail/confirmation.TestRetrieve", "internal/demail/confirmation.TestContent", "internal/relay/daemon.TestProofsComeBack"}},
		{"TR-01201-3.4 §3.5 (matched)", "dispatched, received, retrieved and failed are told for each recipient of what the same tenant has sent, once, in whatever order they come",
			[]string{"internal/relay.Relay.match", "internal/relay/proof.Of"},
			[]string{"internal/relay.TestMatching", "internal/relay.TestDuplicateConfirmations", "internal/relay.TestUnprovedConfirmation", "internal/relay.TestProofIsBornWithItsMessage",
				"internal/relay/proof.TestOf", "internal/relay/proof.TestOrderOfProofsDoesNotCount", "internal/relay/daemon.TestMailTrace", "internal/relay/daemon.TestForgedConfirmation"}},
		{"TR-01201-3.4 §3.5.2", "a notification is read, and delivered even with syntax errors in what need not be right",
			[]string{"internal/demail/confirmation.Parse", "internal/demail.Validate"},
			[]string{"internal/demail/confirmation.TestNotification", "internal/relay/daemon.TestProofsComeBack/ faulty notification"}},
	}
}

// Open are the demands that nothing carries yet. The slice belongs to the caller.
func Open() []Gap {
	return []Gap{
		{"TR-01201-1 (time)", "legal time within one second, over a secured channel", "the image has no time service yet; the clock is the machine's"},
	}
}
