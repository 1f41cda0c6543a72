# `make dev` needs Go only. The rest gets what it needs: tools are Go modules pinned in
# hack/tools, and scripts in hack/ see to the servers that tests run against.

# The make of macOS (3.81) ignores .SHELLFLAGS, so recipes chain with && all the same.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The binaries are static, and nothing else needs C either. (The race detector does:
# make test CGO_ENABLED=1 TEST_FLAGS=-race)
export CGO_ENABLED ?= 0

# `go tool` builds a tool when it is first needed and keeps it in Go's own build cache,
# keyed by all that went into it: no directory of binaries to ignore, version or clean.
# golangci-lint and buf have modules of their own, for their hundreds of dependencies to vote in.
CONTROLLER_GEN := go tool -modfile=hack/tools/go.mod controller-gen
BUF := go tool -modfile=hack/tools/proto/go.mod buf
GOLANGCI_LINT := go tool -modfile=hack/tools/lint/go.mod golangci-lint-kube-api-linter

# What `generate` and `manifests` write, as git's pathspecs.
GENERATED := ':(glob)api/**/zz_generated.*.go' ':(glob)proto/**/*.go' config/crd/bases config/rbac/role.yaml

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TEST_PACKAGES ?= ./...
TEST_TIMEOUT ?= 10m

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Try

.PHONY: dev
dev: ## Serve the sample policies with an embedded Redis; DEV_ARGS adds arguments.
	@go run ./cmd/penstock dev -f config/samples $(DEV_ARGS)

##@ Develop

.PHONY: generate
generate: ## Write the deep-copy functions of the API types, and the code of the services in proto.
	@$(CONTROLLER_GEN) object:headerFile=hack/boilerplate.go.txt paths=./api/...
	@$(BUF) generate proto --template proto/buf.gen.yaml --output proto

.PHONY: manifests
manifests: ## Write the CRDs and the operator's ClusterRole.
	@rm -f config/crd/bases/*.yaml # else a kind that is gone would stay
	@$(CONTROLLER_GEN) crd paths=./api/... output:crd:dir=config/crd/bases
	@$(CONTROLLER_GEN) rbac:roleName=penstock-operator paths=./controllers/... output:rbac:dir=config/rbac

# Compared with the index, so that it can be run before a commit too.
.PHONY: verify
verify: generate manifests ## Check that generated files, formatting, go.mod, imports and kinds are in order.
	@stale="$$(git diff --name-only -- $(GENERATED) && git ls-files --others --exclude-standard -- $(GENERATED))" && \
	if [ -n "$$stale" ]; then \
		git --no-pager diff -- $(GENERATED); \
		echo "These files are not what git has. Run 'make generate manifests' and add them:"; \
		echo "$$stale"; \
		exit 1; \
	fi
	@$(BUF) format --diff --exit-code proto
	@unformatted="$$(gofmt -l .)" && \
	if [ -n "$$unformatted" ]; then echo "gofmt -w is needed on:"; echo "$$unformatted"; exit 1; fi
	@go mod tidy -diff
	@hack/check-imports.sh
	@hack/check-kinds.sh

.PHONY: lint
lint: ## Run golangci-lint (with kube-api-linter), buf lint, luacheck and shellcheck.
	@$(GOLANGCI_LINT) run
	@$(BUF) lint proto
	@luacheck="$$(hack/debian-package.sh luacheck lua-check)" && \
	go run ./hack/lualint "$$luacheck" && \
	"$$luacheck" --quiet --std lua53 --globals core --max-line-length 130 docs/doors/haproxy/penstock.lua
	@shellcheck="$$(hack/debian-package.sh shellcheck shellcheck)" && \
	"$$shellcheck" --severity=warning .ci/run $$(git ls-files -co --exclude-standard '*.sh')

# The output of `go test` is all that goes to standard output; .ci/run relies on it.
.PHONY: test
test: ## Run all tests, against a real redis-server and kube-apiserver; TEST_PACKAGES and TEST_FLAGS narrow it.
	@redis="$$(hack/redis-server.sh)" && assets="$$(hack/envtest-assets.sh)" && \
	modules="$$(hack/node-modules.sh test/interop)" && python="$$(hack/python.sh)" && proxies="$$(hack/proxies.sh)" && \
	for tool in curl:curl openssl:openssl redis-cli:redis-tools; do \
		hack/debian-package.sh "$${tool%:*}" "$${tool#*:}" >/dev/null || exit 1; \
	done && \
	PENSTOCK_REDIS_SERVER="$$redis" KUBEBUILDER_ASSETS="$$assets" \
	PENSTOCK_NODE_MODULES="$$modules" PENSTOCK_PYTHON="$$python" PENSTOCK_PROXIES="$$proxies" \
	go test -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(TEST_PACKAGES)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZ_TIME (10s) each.
	@hack/fuzz.sh

.PHONY: build
build: ## Build bin/operator, bin/penstockd and bin/penstock.
	@go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ \
		./cmd/operator ./cmd/penstockd ./cmd/penstock

.PHONY: bench
bench: ## Compare with envoyproxy/ratelimit, in a closed and in an open loop.
	@bench/run.sh

.PHONY: bench-algorithms
bench-algorithms: ## Measure memory, speed and accuracy of each algorithm; BENCH_ARGS adds arguments.
	@redis="$$(hack/redis-server.sh)" && \
	go run ./bench/algorithms -redis-server "$$redis" -commit "$$(git describe --always --dirty)" $(BENCH_ARGS)

.PHONY: bench-faults
bench-faults: ## Kill, slow down and fail over Redis under load, and measure what callers see; BENCH_ARGS adds arguments.
	@bench/faults.sh $(BENCH_ARGS)

.PHONY: clean
clean: ## Remove what was built; the caches outside of this directory stay.
	@rm -rf bin .ci/logs

##@ In a cluster

.PHONY: install
install: ## Install the CRDs into the cluster that kubectl points to.
	@kubectl apply -k config/crd

.PHONY: run-operator
run-operator: ## Run the operator here, against that cluster; OPERATOR_ARGS adds arguments.
	@go run ./cmd/operator --operator-namespace penstock-system $(OPERATOR_ARGS)
