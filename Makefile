# Each target does its own set-up; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
DESTDIR ?=
INSTALL_OVS_NAMES ?= yes
SECONDS_OF_SOAK ?= 600
CHURN ?= 10000
RELEASE := $(CURDIR)/target/release
# What tests are told by the environment.
PRESERVED := RINGWAY_BIN_DIR,RINGWAY_CHURN,RINGWAY_SOAK_MESSAGES
# Hugepages, pinned cores and namespaces are root's; building is not.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

heading = @printf '\n\033[1m== %s ==\033[0m\n' "$(1)"

.NOTPARALLEL:
.PHONY: help setup build demo test fmt-check clippy lint unit e2e soak fuzz fuzz-coverage bench-flows bench-host bench-restart bench install

help: ## this list
	@echo "ringway: a virtual switch for virtual machines"
	@echo
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

ifeq ($(SETUP),done)
setup:
else
setup: ## packages, hugepages (ordinary memory if there are none to be had); idempotent
	$(call heading,set-up)
	@dpdk-build/setup.sh
	@tests/guest/make-image.sh build/guest
endif

build: setup ## ringwayd, ringway and the tools, in release mode
	$(call heading,build (release))
	cargo build --release --workspace --bins

demo: build ## two Linux guests talk through ringway; every step is shown and checked
	$(call heading,demo)
	$(SUDO) env "RINGWAY_BIN_DIR=$(RELEASE)" "$(RELEASE)/demo"

test: ## everything that CI runs: format, clippy, unit, property and end-to-end tests
	@begin=$$SECONDS; \
	$(MAKE) --no-print-directory setup; \
	for step in fmt-check clippy unit build e2e; do \
	    $(MAKE) --no-print-directory $$step SETUP=done; \
	done; \
	printf '\nall tests passed in %d s\n' $$((SECONDS - begin))

lint: setup fmt-check clippy ## format and clippy only

fmt-check:
	$(call heading,format)
	cargo fmt --all --check

clippy:
	$(call heading,clippy)
	cargo clippy --workspace --all-targets -- -D warnings

unit: ## unit and property tests
	$(call heading,unit and property tests)
	@if cargo nextest --version >/dev/null 2>&1; then \
	    set -x; cargo nextest run --workspace --exclude ringway-tests; \
	else \
	    set -x; cargo test --workspace --exclude ringway-tests --lib --bins --tests; \
	fi
	cargo test --workspace --exclude ringway-tests --exclude dpdk-sys --doc

# The runner gives root to the test executables alone; cargo stays the user's.
e2e: ## end-to-end tests alone; needs `make build`, takes TEST=name and FILE=guests
	$(call heading,end-to-end tests)
	RINGWAY_BIN_DIR="$${RINGWAY_BIN_DIR:-$(RELEASE)}" \
	$(if $(SUDO),CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo --preserve-env=$(PRESERVED)") \
	cargo test -p ringway-tests $(if $(FILE),--test $(FILE),--lib --tests) --no-fail-fast -- --test-threads=1 $(TEST)

soak: build ## the long part of the property, differential, hostile and churn tests (SECONDS_OF_SOAK=600, CHURN=10000)
	PROPTEST_CASES=200000 cargo test -p ringway-datapath --lib model_tests
	RINGWAY_CHURN=$(CHURN) $(MAKE) --no-print-directory e2e FILE=churn
	RINGWAY_SOAK_SECONDS=$(SECONDS_OF_SOAK) cargo test -p ringway-differential --test rules --test vlans -- --nocapture
	RINGWAY_SOAK_MESSAGES=1000000 $(MAKE) --no-print-directory e2e FILE=hostile TEST=random_messages

fuzz: ## all fuzz targets, a minute each; takes FUZZ_SECONDS=3600 and CRATE=datapath/flow TARGET=text
	$(call heading,fuzz)
	for crate in $(or $(CRATE),datapath/flow vhost control); do \
	    tests/fuzz.sh run "$(or $(FUZZ_SECONDS),60)" $$crate $(TARGET); \
	done

fuzz-coverage: ## what seeds and corpora of the fuzz targets reach of the code that they are about; CRATE, TARGET as above
	$(call heading,coverage of the fuzz targets)
	for crate in $(or $(CRATE),datapath/flow vhost control); do \
	    tests/fuzz.sh coverage $$crate $(TARGET); \
	done

bench-flows: build ## rates against flows and masks, set-up, attack, beside Open vSwitch
	$(call heading,bench of flows)
	$(SUDO) "$(RELEASE)/compare" flows $(BENCH)

bench-host: build ## system and internal ports, TCP, adding ports, beside Open vSwitch and the Linux bridge
	$(call heading,bench of the host's side)
	$(SUDO) "$(RELEASE)/compare" host $(BENCH)

bench-restart: build ## what guests notice of restarts, reconnecting and moving, beside Open vSwitch
	$(call heading,bench of restarts)
	$(SUDO) "$(RELEASE)/compare" restart $(BENCH)

bench: build ## ringway, Open vSwitch-DPDK and testpmd side by side, as a table
	$(call heading,bench)
	$(SUDO) "$(RELEASE)/compare" run $(BENCH)

install: ## binaries, completions, the systemd unit and its user, ovs-* names (INSTALL_OVS_NAMES=no: not), under PREFIX (after `make build`)
	install -D -m 755 "$(RELEASE)/ringwayd" "$(DESTDIR)$(PREFIX)/sbin/ringwayd"
	install -D -m 755 "$(RELEASE)/ringway" "$(DESTDIR)$(PREFIX)/bin/ringway"
	@set -x; share="$(DESTDIR)$(PREFIX)/share"; \
	mkdir -p "$$share/bash-completion/completions" "$$share/zsh/site-functions" "$$share/fish/vendor_completions.d"; \
	"$(RELEASE)/ringway" completions bash >"$$share/bash-completion/completions/ringway"; \
	"$(RELEASE)/ringway" completions zsh >"$$share/zsh/site-functions/_ringway"; \
	"$(RELEASE)/ringway" completions fish >"$$share/fish/vendor_completions.d/ringway.fish"
	@set -x; unit="$(DESTDIR)$(PREFIX)/lib/systemd/system/ringwayd.service"; \
	mkdir -p "$$(dirname "$$unit")"; \
	sed '1,3d; s|/usr/local/|$(PREFIX)/|' control/ringwayd/ringwayd.service >"$$unit"
	@set -x; users="$(DESTDIR)$(PREFIX)/lib/sysusers.d/ringway.conf"; \
	install -D -m 644 control/ringwayd/ringway.sysusers "$$users"; \
	if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then \
	    if command -v systemd-sysusers >/dev/null; then systemd-sysusers "$$users"; \
	    elif ! getent passwd ringway >/dev/null; then \
	        useradd --system --user-group --no-create-home --home-dir /var/lib/ringway --shell /usr/sbin/nologin ringway; \
	    fi; \
	fi
ifneq ($(INSTALL_OVS_NAMES),no)
	@for name in ovs-vsctl ovs-ofctl ovs-dpctl ovs-appctl; do \
	    link="$(PREFIX)/bin/$$name"; \
	    was=$$(readlink "$(DESTDIR)$$link" || true); \
	    if [ -e "$(DESTDIR)$$link" ] && [ "$$was" != ringway ]; then \
	        echo "note: $$link is another program and is left alone; ringway $$name does the same"; \
	        continue; \
	    fi; \
	    (set -x; ln -sfn ringway "$(DESTDIR)$$link"); \
	    found=$$(command -v "$$name" || true); \
	    if [ -z "$(DESTDIR)" ] && [ "$$found" != "$$link" ]; then \
	        echo "note: typing $$name runs $${found:-nothing}, not $$link: put $(PREFIX)/bin before it in PATH, or type ringway $$name"; \
	    fi; \
	done
endif
