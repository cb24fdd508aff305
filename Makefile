# Thin on purpose: every target is one or two lines that call Go.
# SHORT=1 skips, by name, what needs QEMU. ONCE=1 makes `run` end by itself.
# CUTS=n sets the number of power cuts in `test`.
SHELL := /bin/bash
GO    := go
.DEFAULT_GOAL := help
.PHONY: help setup run test check bench image fuzz trace clean

help: ## show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install the Debian packages that building and testing need
	@$(GO) run ./cmd/vmrun setup

run: setup ## build the box and run it before your eyes, with a provider and two tenants
	@$(GO) build -o build/vmrun ./cmd/vmrun && build/vmrun

image: setup ## build build/pforte.efi, build/pforte.img and build/manifest.json
	@$(GO) run ./cmd/mkimage -out build

check: ## without scenarios, seconds to two minutes: format, vet, staticcheck, rules and unit tests
	@test -z "$$(gofmt -l cmd appliance image hsm internal qemu | tee /dev/stderr)" && $(GO) vet ./... && $(GO) tool staticcheck ./...
	@SHORT=1 $(GO) test ./...

test: setup ## everything: format, vet, staticcheck, rules, race, 10,000 crash points, and the scenarios in QEMU
	@test -z "$$(gofmt -l cmd appliance image hsm internal qemu | tee /dev/stderr)" && $(GO) vet ./... && $(GO) tool staticcheck ./...
	@$(GO) test -race -timeout 30m $$($(GO) list ./... | grep -v /qemu/e2e) && $(GO) test -timeout 20m ./internal/queue && $(GO) test -count=1 -timeout 80m -v ./qemu/e2e

bench: setup ## figures beside Debian's Postfix in the same run, as root (MICRO=1: Go's benchmarks too)
	@$(GO) build -o build/bench ./qemu/bench && build/bench
	@[ -z "$$MICRO" ] || $(GO) test -run '^$$' -bench . -benchmem ./...

interop: setup ## letters and attacks through Debian's mail servers and Pforte, as root, 5 minutes
	@$(GO) build -o build/interop ./qemu/interop && build/interop

fuzz: ## run each fuzz target for FUZZTIME (default 1m)
	@$(GO) list ./... | while read p; do $(GO) test -list '^Fuzz' $$p | grep ^Fuzz | xargs -r -I{} $(GO) test -run '^$$' -fuzz '^{}$$' -fuzztime $${FUZZTIME:-1m} -fuzzminimizetime 20x $$p || exit 1; done

trace: ## print which code and tests carry each clause of De-Mail's rules
	@$(GO) run ./internal/demail/clauses/trace

clean: ## remove build results (caches live in the user's cache folder)
	@$(GO) clean ./... && rm -rf build
