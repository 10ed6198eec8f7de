# The commands of this repository. `make help` lists them.
#
# `make build` leaves the host at $(TARGET)/release/larder and every first-party component at
# plugins/dist/NAME.wasm. Nothing here needs root, except that `.ci/setup` may have to install packages.

TARGET  := $(or $(CARGO_TARGET_DIR),target)
CARGO   := cargo
# One profile for everything, so that wasmtime is compiled once; and the versions of the lock file.
FLAGS   := --release --locked
WASM    := --target wasm32-wasip2
# Workspaces of their own, because they are compiled to components.
GUESTS  := plugins/Cargo.toml tests/guests/Cargo.toml examples/loader-rust/Cargo.toml
# Where they are tested and linted: in one place, for they share the SDK and its dependencies.
GUEST_TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR)/guests,plugins/target)

# In every target, so that all of them share what was compiled. The guests' workspaces have settings of their own.
export RUSTC_WORKSPACE_WRAPPER ?= $(abspath .ci/rustc)

# Where black-box tests, examples and the benchmark find what was built.
export LARDER_BIN   ?= $(abspath $(TARGET)/release/larder)
export PLUGINS_DIST ?= $(abspath plugins/dist)

# make run EXAMPLE=redis serves examples/redis.
EXAMPLE ?= quickstart
# make bench BENCH="--quick --only larder-memory,axum-moka"
BENCH   ?=
# make bench-inner INNER=respond
INNER   ?=

.PHONY: help setup build run test kills soak model instructions bench bench-inner bench-purge bench-writes bench-overload lint

help: ## lists the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## installs what `make build` and `make run` need and is missing
	@.ci/setup build

# The workspace, as `make test` does: the host alone would have other features, and wasmtime would be compiled again.
build: setup ## builds the host and the first-party plugins
	$(CARGO) build $(FLAGS) --workspace
	bash plugins/build.sh

run: build ## serves examples/quickstart on 127.0.0.1:8080, admin on 127.0.0.1:8081
	@examples/run $(EXAMPLE)

test: ## builds and tests everything, and lints it
	@.ci/setup test
	$(CARGO) build $(FLAGS) --workspace --all-targets
	bash plugins/build.sh
	bash tests/guests/build.sh
	examples/loader-rust/build
	examples/loader-js/build
	examples/loader-python/build
	cd examples/loader-js && node --test
	cd examples/loader-python && python3 -m unittest
	$(CARGO) test $(FLAGS) --workspace
	$(CARGO) test $(FLAGS) --workspace --manifest-path plugins/Cargo.toml --target-dir $(GUEST_TARGET)
	$(CARGO) test $(FLAGS) --manifest-path examples/loader-rust/Cargo.toml --target-dir $(GUEST_TARGET)
	$(CARGO) test $(FLAGS) --manifest-path bench/Cargo.toml --target-dir $(TARGET)
	@$(MAKE) --no-print-directory lint

kills: build ## kills servers 200 times while clients write, and looks whether anything was lost: for minutes
	LARDER_KILLS=$(or $(KILLS),200) $(CARGO) test $(FLAGS) --workspace --test kills -- --nocapture

soak: build ## reloads a plugin 1,000 times during 1,000,000 calls, for minutes: nothing may be left behind
	LARDER_SOAK=1000,1000000 $(CARGO) test $(FLAGS) --workspace --test soak

model: build ## runs 1,000 random schedules of three nodes that fail: for hours. MODEL=17 runs one again
	LARDER_MODEL=$(or $(MODEL),1-1000) $(CARGO) test $(FLAGS) --workspace --test model -- --nocapture

instructions: build ## counts the instructions of a request in valgrind. UPDATE_INSTRUCTIONS=1 stores the counts
	@.ci/setup test
	$(CARGO) test $(FLAGS) --workspace --test instructions -- --nocapture

bench-inner: build ## measures the inner pieces of an answer, each alone. INNER=respond measures some
	$(CARGO) bench --locked --workspace --bench inner -- $(INNER)

# A workspace of its own: in one, the peers' features would be added to the host's dependencies, and the host that
# is measured would not be the one that is used.
bench: bench-build ## makes every measurement of Larder beside others, for half an hour and more: tables, samples and a plot
	bench/loaders/build
	$(TARGET)/release/larder-bench all --directory $(TARGET)/bench $(BENCH)

bench-hits: bench-build ## measures hits of Larder beside what people would pick instead, and prints a table
	$(TARGET)/release/larder-bench run $(BENCH)

bench-one: bench-build ## makes one measurement: BENCH="start --starts 3"
	bench/loaders/build
	$(TARGET)/release/larder-bench $(BENCH)

.PHONY: bench-build bench-hits bench-one
bench-build: build
	@.ci/setup bench
	$(CARGO) build $(FLAGS) --manifest-path bench/Cargo.toml --target-dir $(TARGET)

bench-purge: bench-build ## measures a purge of a tag that covers 100,000 entries beside one that covers 10
	$(TARGET)/release/larder-bench purge $(BENCH)

bench-writes: bench-build ## measures acknowledged writes, and how fast 100,000 that wait are made
	$(TARGET)/release/larder-bench writes $(BENCH)

bench-overload: bench-build ## asks for ten times what a source can do, and measures who is served and how fast
	$(TARGET)/release/larder-bench overload $(BENCH)

lint: ## checks formatting and runs clippy, on the components too
	@.ci/setup lint
	$(CARGO) fmt --all --check
	set -e; for guests in $(GUESTS); do $(CARGO) fmt --all --check --manifest-path $$guests; done
	$(CARGO) clippy $(FLAGS) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(FLAGS) --workspace --bench inner -- -D warnings
	$(CARGO) fmt --all --check --manifest-path bench/Cargo.toml
	$(CARGO) clippy $(FLAGS) --manifest-path bench/Cargo.toml --target-dir $(TARGET) --all-targets -- -D warnings
	set -e; for guests in $(GUESTS); do \
	  $(CARGO) clippy $(FLAGS) --workspace $(WASM) --manifest-path $$guests --target-dir $(GUEST_TARGET) -- -D warnings; done
