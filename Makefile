# The index of jobs. `make help` lists them.
CARGO ?= cargo
FEATURES := --workspace --features demo
# The catalogs', storages' and sinks' own tests that want a server.
SERVER_TESTS := $(CARGO) test $(FEATURES) --lib --test real -- hms:: trino:: sql::tests storage::tests sink::redis sink::clickhouse kafka::transactions sidecar::topic sidecar::state
STACK := deploy/native/stack

.PHONY: help demo build check fmt lint deny compose-check mutations-check test test-fast test-e2e chaos soak mutations faults
.PHONY: bench stack-up stack-down stack-status

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

demo: ## everything in one process tree, no server needed: changes become tables, one kill -9, then the proof
# The test target brings the features that tests turn on (rstest's of syn, and everything is built on syn): `make test` then
# builds nothing twice.
	$(CARGO) build $(FEATURES) --bin firn --test it
	"$$(deploy/ci/target-dir)/debug/firn" demo

build: ## debug binary with the demo
	$(CARGO) build $(FEATURES) --bins --tests

check: fmt lint deny compose-check mutations-check test-fast ## format, lints, licences, the compose file, fast tests

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy $(FEATURES) --all-targets -- -D warnings

deny: ## licences, sources and duplicate versions of the dependencies
	deploy/ci/cargo-deny check bans licenses sources

compose-check: ## docker-compose.yml against the compose specification and the native stack
	deploy/ci/compose-check
	deploy/ci/compose-check --self-test

mutations-check: ## the mutations of docs/mutations still fit the code
	git apply --check docs/mutations/*.patch

# A fresh set of seeds beside the fixed ones; a failing one is printed.
test-fast: ## unit tests and the simulation: fixed seeds, and fresh ones for 20 s
	FIRN_SIM_FRESH_SECONDS=$${FIRN_SIM_FRESH_SECONDS:-20} $(CARGO) test $(FEATURES)

soak: ## the simulation with seeds that nobody has tried, on all cores; SECONDS=600, else until stopped (docs/simulation.md)
	FIRN_SOAK_SECONDS=$(SECONDS) $(CARGO) test $(FEATURES) --test it -- --ignored --exact --nocapture simulation::soak::soak

mutations: ## breaks a promise in three ways, each of which the simulation must find within a minute (three builds)
	deploy/ci/mutations

test: test-fast test-e2e ## all tests: unit, simulation, end to end on the real servers

test-e2e: build ## end to end on the native stack: Trino against PostgreSQL, kills, foreign writers, bad input
	FIRN_BIN="$$(deploy/ci/target-dir)/debug/firn" FIRN_SERVER_TESTS="$(SERVER_TESTS)" tests/e2e/run

chaos: ## three processes and 5,000,000 changes while everything breaks, ten minutes; stopped processes for a minute (release build)
	$(CARGO) build --release --bin firn --bench ingest
	FIRN_BIN="$$(deploy/ci/target-dir)/release/firn" FIRN_E2E_FULL=1 FIRN_CHAOS_SECONDS=$${FIRN_CHAOS_SECONDS:-600} \
	  FIRN_CHAOS_CHANGES=$${FIRN_CHAOS_CHANGES:-5000000} tests/e2e/run test_chaos.py test_fencing.py -s

faults: build ## the crash matrix: each fault at each step, in each mode, with each catalog; writes docs/faults.md (about half an hour)
	FIRN_BIN="$$(deploy/ci/target-dir)/debug/firn" FIRN_FAULTS=all FIRN_E2E_WRITE_DOCS=1 FIRN_FAULTS_STALL_MS=$${FIRN_FAULTS_STALL_MS:-30000} tests/e2e/run test_faults.py

bench: ## speed and memory on real Kafka, as a table with ratios (release build; docs/benchmarks.md)
	deploy/ci/bench

stack-up: ## PostgreSQL, Kafka, Connect, registry, MinIO, Hive Metastore, Trino, Redis, ClickHouse as plain processes
	$(STACK) up

stack-down: ## stops them
	$(STACK) down

stack-status: ## what runs where
	$(STACK) status
