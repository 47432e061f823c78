# GNU make. `make help` lists what there is to do.

PREFIX ?= /usr
SYSCONFDIR ?= /etc
BINDIR ?= $(PREFIX)/bin
LIBEXECDIR ?= $(PREFIX)/libexec
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d

# A folder of systemd's: asked of systemd.pc, else the usual place. Some systems still name /lib where it is a link to
# /usr/lib; a DESTDIR tree with a real /lib could not be copied onto them.
systemd_dir = $(patsubst /lib/%,/usr/lib/%,$(or $(shell pkg-config --variable=$(1) systemd 2>/dev/null),$(2)))

UNITDIR ?= $(call systemd_dir,systemdsystemunitdir,/usr/lib/systemd/system)
USERUNITDIR ?= $(call systemd_dir,systemduserunitdir,/usr/lib/systemd/user)
GENERATORDIR ?= $(call systemd_dir,systemdsystemgeneratordir,/usr/lib/systemd/system-generators)
SYSUSERSDIR ?= $(call systemd_dir,sysusersdir,/usr/lib/sysusers.d)
TMPFILESDIR ?= $(call systemd_dir,tmpfilesdir,/usr/lib/tmpfiles.d)
CATALOGDIR ?= $(call systemd_dir,catalogdir,/usr/lib/systemd/catalog)
MODULESLOADDIR ?= $(call systemd_dir,modulesloaddir,/usr/lib/modules-load.d)
PRESETDIR ?= $(call systemd_dir,systemdsystempresetdir,/usr/lib/systemd/system-preset)
# Asked once, not at each use.
UNITDIR := $(UNITDIR)
USERUNITDIR := $(USERUNITDIR)
GENERATORDIR := $(GENERATORDIR)
SYSUSERSDIR := $(SYSUSERSDIR)
TMPFILESDIR := $(TMPFILESDIR)
CATALOGDIR := $(CATALOGDIR)
MODULESLOADDIR := $(MODULESLOADDIR)
PRESETDIR := $(PRESETDIR)

# Where glibc looks for modules: beside itself.
LIBDIR ?= $(or $(patsubst %/,%,$(dir $(realpath $(shell cc -print-file-name=libc.so.6 2>/dev/null)))),$(PREFIX)/lib)

CARGO ?= cargo
# Empty where the crates are not those of Cargo.lock, as in Debian's archive.
LOCKED = --locked
# Where the programs are that are installed; tests know them by the same variable.
RELEASE = $(or $(VSOCK_BRIDGE_PROGRAMS),$(or $(CARGO_TARGET_DIR),target)/release)

# A build with a fixed date is to be the same anywhere (reproducible-builds.org): panics name source files, whose paths
# are those of the builder.
ifdef SOURCE_DATE_EPOCH
export RUSTFLAGS += $(foreach folder,$(CURDIR)/vendor $(wildcard $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src/*), \
	--remap-path-prefix=$(folder)=/crates)
endif

# The one list of what is installed: mode:source:destination. A source that ends in .in has its @…DIR@ filled in, and a page
# of the manual names the programs where they are.
UNITS = $(wildcard units/*.socket units/*.path units/*.service units/*.service.in)
# For `systemctl --user`; their names are those of units of the machine, and so are their pages.
USER_UNITS = $(wildcard units/user/*.socket units/user/*.service.in)
UNIT_DROPINS = $(wildcard units/*.d/*.conf units/*.d/*.conf.in)
PAGES = $(filter-out man/nss-vsock.8,$(wildcard man/*.[1-8]))
# A unit without a page of its own has one that leads to where it is described.
UNIT_NAMES = $(patsubst units/%,%,$(UNITS:.in=))
ALIASES = $(filter-out $(patsubst man/%.8,%,$(PAGES)),$(UNIT_NAMES))
described_in = $(if $(filter sshd-%,$(1)),sshd-vsock.socket,$(if $(filter vsock-exec%,$(1)),vsock-exec,$(if \
	$(filter vsock-bridge-metrics%,$(1)),vsockctl,$(if \
	$(filter vsock-bridge-gateway% vsock-bridge-proxy% vsock-bridge-inbound%,$(1)),vsock-bridge-gateway,vsock-bridge))))
FILES = \
	755:$(RELEASE)/vsock-bridge:$(LIBEXECDIR)/vsock-bridge/vsock-bridge \
	755:$(RELEASE)/vsock-notify:$(LIBEXECDIR)/vsock-bridge/vsock-notify \
	755:$(RELEASE)/vsock-exec:$(LIBEXECDIR)/vsock-bridge/vsock-exec \
	755:$(RELEASE)/vsock-connect:$(BINDIR)/vsock-connect \
	755:$(RELEASE)/vsockctl:$(BINDIR)/vsockctl \
	755:$(RELEASE)/vsock-bridge-generator:$(GENERATORDIR)/vsock-bridge-generator \
	$(foreach unit,$(UNITS),644:$(unit):$(UNITDIR)/$(patsubst units/%,%,$(unit:.in=))) \
	$(foreach unit,$(USER_UNITS),644:$(unit):$(USERUNITDIR)/$(patsubst units/user/%,%,$(unit:.in=))) \
	$(foreach dropin,$(UNIT_DROPINS),644:$(dropin):$(UNITDIR)/$(patsubst units/%,%,$(dropin:.in=))) \
	644:packaging/sysusers.d/vsock-bridge.conf:$(SYSUSERSDIR)/vsock-bridge.conf \
	644:packaging/tmpfiles.d/vsock-bridge.conf:$(TMPFILESDIR)/vsock-bridge.conf \
	644:packaging/catalog/vsock-bridge.catalog:$(CATALOGDIR)/vsock-bridge.catalog \
	644:packaging/modules-load.d/vsock-bridge.conf:$(MODULESLOADDIR)/vsock-bridge.conf \
	644:packaging/preset/90-vsock-bridge.preset:$(PRESETDIR)/90-vsock-bridge.preset \
	644:packaging/ssh/15-vsock-bridge-names.conf.in:$(SYSCONFDIR)/ssh/ssh_config.d/15-vsock-bridge-names.conf \
	644:packaging/ssh/35-vsock-bridge.conf.in:$(SYSCONFDIR)/ssh/ssh_config.d/35-vsock-bridge.conf \
	644:packaging/ssh/unknown-host:$(DATADIR)/vsock-bridge/unknown-host \
	644:packaging/completions/vsock.bash:$(BASHDIR)/vsockctl \
	644:packaging/completions/vsock.bash:$(BASHDIR)/vsock-connect \
	644:packaging/completions/_vsock:$(ZSHDIR)/_vsock \
	644:packaging/completions/vsockctl.fish:$(FISHDIR)/vsockctl.fish \
	644:packaging/completions/vsock-connect.fish:$(FISHDIR)/vsock-connect.fish \
	$(foreach page,$(PAGES),644:$(page):$(MANDIR)/man$(subst .,,$(suffix $(page)))/$(notdir $(page))) \
	$(foreach unit,$(ALIASES),644:packaging/man/$(call described_in,$(unit)).8:$(MANDIR)/man8/$(unit).8)

# The module for names, which everybody who wants it installs by itself.
NSS_FILES = \
	644:$(RELEASE:%release=%nss)/libnss_vsock.so:$(LIBDIR)/libnss_vsock.so.2 \
	644:man/nss-vsock.8:$(MANDIR)/man8/nss-vsock.8

# For systems with AppArmor.
APPARMOR_FILES = 644:packaging/apparmor/vsock-bridge.in:$(SYSCONFDIR)/apparmor.d/vsock-bridge

# Folders of our own, removed by uninstall when nothing of the administrator's is in them.
OWN_DIRS = $(LIBEXECDIR)/vsock-bridge $(DATADIR)/vsock-bridge $(addprefix $(UNITDIR)/,$(notdir $(wildcard units/*.d)))

STAGES = fmt clippy doc msrv unit programs units packages systemd vm virtio older stock stock-older

.PHONY: build nss help check $(addprefix check-,$(STAGES)) install install-nss install-apparmor uninstall docs recordings check-long check-next demo demo-network soak peers interop fuzz bench bench-vm bench-growth bench-plot clean static dist release deb

build: ## build the programs
	$(CARGO) build --release $(LOCKED)

# The loader knows a library by the name in it, and must not unload one whose threads may still have data of it.
nss: ## build the module that resolves 3.vsock for every program
	$(CARGO) rustc --profile nss $(LOCKED) --package nss-vsock --crate-type cdylib -- \
		-C link-arg=-Wl,-soname,libnss_vsock.so.2 -C link-arg=-Wl,-z,nodelete

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

check: ## run every test; check-STAGE runs one of: fmt clippy doc msrv unit programs units packages systemd vm virtio older stock stock-older
	@tests/check $(STAGES)

$(addprefix check-,$(STAGES)): check-%:
	@tests/check $*

check-long: ## the tests that take an hour and more: long pauses, a million packets, more than 4 GiB
	@tests/check long

check-next: ## the cases of systemd and of the guests with Debian's next release; not part of check
	@tests/check next

# Among all stages, without the cases that compile everything once more.
check-packages: export ALL_PACKAGE_CASES = yes

BUILT_BY = build
THEN = run: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && journalctl --update-catalog

FILL_IN = sed -e 's|/usr/libexec/|$(LIBEXECDIR)/|g' \
	$(foreach folder,LIBEXECDIR DATADIR BINDIR SYSCONFDIR,-e 's|@$(folder)@|$($(folder))|g')

# Runs no cargo: it is called as root, by recipes, with what was built before.
install: ## install what was built, below DESTDIR
	@set -eu; for file in $(FILES); do \
		mode=$${file%%:*}; file=$${file#*:}; source=$${file%%:*}; target=$(DESTDIR)$${file#*:}; \
		[ -e "$$source" ] || { echo "make install: $$source is missing, run 'make $(BUILT_BY)' first" >&2; exit 1; }; \
		case $$source in \
		*.in | man/*.[1-8]) $(FILL_IN) "$$source" | install -D -m "$$mode" /dev/stdin "$$target" ;; \
		*) install -D -m "$$mode" "$$source" "$$target" ;; \
		esac; \
	done
	@[ -n "$(DESTDIR)" ] || echo "now $(THEN)"

install-nss: ## install the module that was built, into LIBDIR below DESTDIR
	@$(MAKE) --no-print-directory install FILES='$(NSS_FILES)' BUILT_BY=nss \
		THEN="put vsock before resolve and dns in the line hosts: of /etc/nsswitch.conf"

install-apparmor: ## install the profiles of the services for AppArmor, below DESTDIR
	@$(MAKE) --no-print-directory install FILES='$(APPARMOR_FILES)' \
		THEN="run: apparmor_parser --replace $(SYSCONFDIR)/apparmor.d/vsock-bridge"

uninstall: ## stop what runs, and remove what install put there; settings stay
	@[ -n "$(DESTDIR)" ] || packaging/stop
	@for file in $(FILES) $(NSS_FILES) $(APPARMOR_FILES); do rm -f "$(DESTDIR)$${file##*:}"; done
	@# Where version 0.1.0 had what is in DATADIR.
	@rm -f "$(DESTDIR)$(LIBEXECDIR)/vsock-bridge/unknown-host"
	@for dir in $(OWN_DIRS); do [ ! -d "$(DESTDIR)$$dir" ] || rmdir --ignore-fail-on-non-empty "$(DESTDIR)$$dir"; done
	@[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
	@[ -n "$(DESTDIR)" ] || echo "what is left: /etc/vsock-bridge, the users vsock-bridge, vsock-bridge-names and vsock-exec, and vsock in /etc/nsswitch.conf if it is there"

# Binaries for any Linux of this architecture, as guests and containers without glibc are.
STATIC_TARGET ?= $(shell uname -m)-unknown-linux-musl
static: ## build the programs without shared libraries, by the Rust target for musl
	@[ -d "$$(rustc --print target-libdir --target $(STATIC_TARGET))" ] || \
		{ echo "rustup target add $(STATIC_TARGET)" && rustup target add $(STATIC_TARGET); } || \
		{ echo "make static: this Rust cannot build for $(STATIC_TARGET): install Rust by rustup" >&2; exit 1; }
	$(CARGO) build --release --locked --target $(STATIC_TARGET) \
		$(addprefix --bin ,vsock-bridge vsock-exec vsock-connect vsock-notify vsockctl vsock-bridge-generator)

dist: ## make the tarball of a release, with the source of every crate
	@packaging/dist

release: ## make all that a release carries into one folder, and try each; RELEASE_CASES=bill names what to try
	@folder=$$(packaging/release) && tests/release/run "$$folder" $(RELEASE_CASES) && echo "$$folder"

deb: ## build the Debian packages
	@packaging/deb

docs: ## render the manuals and the documentation of the source as HTML, into target/docs
	@docs/build

recordings: build ## record vsockctl list --watch and make demo in a terminal, into docs/recordings
	@docs/recordings/record

demo: ## boot a throw-away virtual machine and show set-ups A and B
	@tests/vm/demo

demo-network: ## boot two of them and show D and E: machines among each other, and one without a network card
	@tests/vm/demo-network

MINUTES ?= 20
soak: build ## use a bridge for MINUTES=20 while it is restarted and killed every few seconds
	@tests/soak/run $(MINUTES)

peers: build ## ask other relays what is asked of ours, and write docs/faults.md
	@tests/peers/run

interop: ## try programs of others through the bridge, in a booted guest, and write docs/interop.md
	@tests/interop/run

fuzz: ## let a fuzzer at every reader of text for a minute in all; FUZZ_SECONDS=600 for longer
	@fuzz/run

bench: build ## compare with other relays; BENCH_ARGS=--quick for less, --record to keep the run
	@benches/run $(BENCH_ARGS)

bench-vm: ## the same over vsock, in a booted guest
	@tests/vm/bench $(BENCH_ARGS)

bench-growth: build ## what a bridge costs as there are more connections, bridges and processors
	@benches/growth $(BENCH_ARGS)

bench-plot: ## draw the pictures of the recorded runs again
	@benches/plot

clean: ## remove what was built
	$(CARGO) clean
