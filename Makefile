# Plain `make` lists the targets.
GO ?= go
BENCHTIME ?= 1s
FUZZTIME ?= 10s

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: build
build: ## build bin/tidelock
	$(GO) build -o bin/tidelock ./cmd/tidelock

.PHONY: run
run: ## run the quickstart server
	$(GO) run ./cmd/tidelock quickstart

.PHONY: test
test: vet race fips postgres blobs pkcs11 clients crash cluster azcli terraform ## everything: vet, Go tests under the race detector, PostgreSQL, object stores, PKCS#11, real clients, crash and cluster histories, azure-cli, Terraform's clients

.PHONY: vet
vet: ## go vet and gofmt
	$(GO) vet ./...
	$(GO) vet -tags e2e,azcli ./e2e/...
	$(GO) vet -tags pkcs11 ./internal/...
	CGO_ENABLED=0 $(GO) build ./...
	@unformatted=$$(gofmt -l $$(git ls-files "*.go")); \
	if [ -n "$$unformatted" ]; then echo "not gofmt-clean: $$unformatted"; exit 1; fi

# Without the garbage collector: see TestMain of internal/custody.
FIPS = GOGC=off GODEBUG=fips140=only $(GO) test -count 1
.PHONY: fips
fips: ## keys, formats and the server with GODEBUG=fips140=only
	$(FIPS) ./internal/envelope ./internal/keystore ./internal/anchor ./internal/history
	$(FIPS) -run 'Epoch|Scenario|Retention|Update|Create|Tamper|Audit|Receipt|KeyRules' ./internal/custody
	$(FIPS) -skip 'Wycheproof|AlgorithmsOfTheRealClient|Golden|ManagedHSM|TestRoles' ./internal/vault
	$(FIPS) -run 'TestScenario(01|16|19|29|38)' ./internal/app

.PHONY: mutation
mutation: ## take one protection at a time out of the crypto code: a test must fail (ten minutes)
	$(GO) test -tags mutation -count 1 -v -timeout 30m -run TestMutationsAreNoticed ./e2e

.PHONY: race
race: ## go test -race ./...
	$(GO) test -race ./...

.PHONY: scenarios
scenarios: ## the acceptance scenarios of customer-managed keys, by number
	$(GO) test -count 1 -run 'Scenario' -v ./internal/...

.PHONY: clients
clients: build ## the real Fluid clients against the built server (needs Node 20 and npm)
	@command -v node >/dev/null && command -v npm >/dev/null || { \
		echo "make clients: Node 20 or later and npm are missing; install them (Debian: apt-get install nodejs npm), or run 'make vet race crash' without them"; exit 1; }
	cd e2e && npm ci --no-audit --no-fund
	cd e2e/v1 && npm ci --no-audit --no-fund
	cd e2e/driver3 && npm ci --no-audit --no-fund
	cd e2e && TIDELOCK_BIN=$(CURDIR)/bin/tidelock npm test
	cd e2e/v1 && TIDELOCK_BIN=$(CURDIR)/bin/tidelock npm test
	cd e2e/driver3 && TIDELOCK_BIN=$(CURDIR)/bin/tidelock npm test

.PHONY: azcli
azcli: build ## Debian's azure-cli and Azure's Python SDK against the built server
	@command -v az >/dev/null || { echo "make azcli: az is missing; install it (Debian: apt-get install azure-cli)"; exit 1; }
	TIDELOCK_BIN=$(CURDIR)/bin/tidelock $(GO) test -tags azcli -count 1 -v -timeout 15m ./e2e/azcli

.PHONY: terraform
terraform: build ## the clients of Terraform's azurerm provider against the built server (downloads 150 MB once)
	cd e2e/terraform && TIDELOCK_BIN=$(CURDIR)/bin/tidelock $(GO) test -count 1 .

.PHONY: crash
crash: build ## kill -9 under load, again and again
	TIDELOCK_BIN=$(CURDIR)/bin/tidelock $(GO) test -race -tags e2e -count 1 -v -timeout 20m ./e2e

.PHONY: postgres
postgres: build ## the PostgreSQL engine against real servers (needs PostgreSQL's server programs, 15 or later; with Patroni and etcd, a cluster of theirs, too)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		echo "make postgres: PostgreSQL's server programs are missing; install them (Debian: apt-get install postgresql), or run 'make vet race clients crash' without them"; exit 1; }
	TIDELOCK_POSTGRES=1 $(GO) test -race -count 1 -timeout 20m ./internal/store/postgres/...
	TIDELOCK_POSTGRES=1 $(GO) test -race -count 1 -timeout 20m -run 'TestServerOnADatabase|TestNodes|TestScenario37|TestServiceKeyRotationOnTwoNodes' ./internal/app
	TIDELOCK_POSTGRES=1 TIDELOCK_BIN=$(CURDIR)/bin/tidelock $(GO) test -race -tags e2e -count 1 -v -timeout 20m -run TestDatabase ./e2e/...

.PHONY: pkcs11
pkcs11: ## keys in a PKCS#11 token: SoftHSM (Debian: softhsm2; without it these tests are skipped)
	$(GO) test -race -tags pkcs11 -count 1 -timeout 20m -run 'Token|KeyWrap|AtOnce|WhatIsWrong|ServiceKeyRotation' ./internal/pkcs11/... ./internal/vault ./internal/app

.PHONY: blobs
blobs: ## the object stores against Azurite (needs Node 20 and npm)
	cd e2e/azurite && npm ci --no-audit --no-fund --ignore-scripts
	TIDELOCK_AZURITE=$(CURDIR)/e2e/azurite/node_modules/.bin/azurite-blob $(GO) test -race -count 1 ./internal/store/blobs/...

HISTORIES ?= 2
.PHONY: cluster
cluster: build ## three nodes on a PostgreSQL with a standby, under faults, HISTORIES times (needs PostgreSQL's server programs, Node 20 and npm)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		echo "make cluster: PostgreSQL's server programs are missing; install them (Debian: apt-get install postgresql)"; exit 1; }
	cd e2e && npm ci --no-audit --no-fund
	TIDELOCK_POSTGRES=1 TIDELOCK_BIN=$(CURDIR)/bin/tidelock TIDELOCK_HISTORIES=$(HISTORIES) \
		$(GO) test -tags e2e -count 1 -v -timeout 24h ./e2e/cluster

.PHONY: fuzz
fuzz: ## every fuzz function for FUZZTIME each
	@for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do \
			echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; \
	done

.PHONY: bench
bench: ## the Go benchmarks
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./internal/...

.PHONY: lint
lint: ## golangci-lint, when it is installed
	golangci-lint run

.PHONY: golden
golden: ## rewrite the golden files; the diff is the review
	$(GO) test ./internal/... -update
