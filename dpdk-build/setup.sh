#!/bin/bash
# Prepares a Debian machine for ringway: packages, hugepages, a check for Rust.
# May be run again at any time; does only what is still to be done, and says it.
set -euo pipefail

readonly PAGE_KIB=2048
readonly DEFAULT_PAGES=1536 # 3 GiB
readonly MOUNT_POINT=/dev/hugepages

readonly BUILD_PACKAGES=(
    build-essential pkg-config clang libclang-dev protobuf-compiler
    libdpdk-dev libpcap-dev libbsd-dev libnuma-dev libbpf-dev libxdp-dev
)
# dpdk-dev holds dpdk-testpmd, dpdk holds dpdk-devbind.py.
readonly TEST_PACKAGES=(
    dpdk-dev dpdk openvswitch-switch-dpdk
    qemu-system-x86 busybox-static cpio
    iproute2 iputils-ping iperf3 ethtool tcpdump tshark strace procps util-linux
    libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libxml2-utils
)

usage() {
    cat <<'USAGE'
usage: dpdk-build/setup.sh [--build-only] [--help]

Installs the Debian packages ringway is built and tested with, reserves 2 MiB
hugepages, mounts hugetlbfs at /dev/hugepages, and checks that Rust is there.
Uses sudo when not run by root. Nothing is done twice.

  --build-only   only the packages needed to build; no hugepages
  --help         this text

Environment:
  RINGWAY_HUGEPAGES   how many 2 MiB hugepages there shall be at least
                      (default 1536 = 3 GiB, at most a quarter of the memory;
                      0 = leave hugepages alone)

Where hugepages cannot be had, ringway uses ordinary memory. This script then
says so and succeeds.
USAGE
}

say() { printf 'setup: %s\n' "$*"; }
warn() { printf 'setup: WARNING: %s\n' "$*" >&2; }
fail() {
    printf 'setup: ERROR: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*"
    fi
}

# ---- packages ----

missing_packages() {
    local package
    for package in "$@"; do
        if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            printf '%s\n' "$package"
        fi
    done
}

# A list older than a day, or none, is brought up to date. So is one that does
# not know what we want.
package_lists_usable() {
    [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit 2>/dev/null)" ] &&
        apt-get install --simulate --no-install-recommends -y "$@" >/dev/null 2>&1
}

# While packages are installed, no service of theirs is started: the tests bring
# up their own Open vSwitch, and a system-wide one would only hold memory.
policy_file=/usr/sbin/policy-rc.d
policy_is_ours=no

forbid_service_starts() {
    if [ ! -e "$policy_file" ]; then
        printf '#!/bin/sh\n# Put here by ringway setup for the time of an installation.\nexit 101\n' |
            as_root tee "$policy_file" >/dev/null
        as_root chmod 755 "$policy_file"
        policy_is_ours=yes
    fi
}

allow_service_starts() {
    if [ "$policy_is_ours" = yes ]; then
        as_root rm -f "$policy_file"
        policy_is_ours=no
    fi
}

install_packages() {
    local missing had_ovs=no
    mapfile -t missing < <(missing_packages "$@")
    if [ "${#missing[@]}" -eq 0 ]; then
        say "packages: all ${#} are installed"
        return
    fi
    command -v apt-get >/dev/null ||
        fail "no apt-get here; install by other means what these Debian packages hold: ${missing[*]}"
    if [ -z "$(missing_packages openvswitch-switch)" ]; then
        had_ovs=yes
    fi
    if ! package_lists_usable "${missing[@]}"; then
        say "packages: updating apt's lists"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq ||
            fail "apt-get update failed: is the package mirror reachable?"
    fi
    say "packages: installing ${missing[*]}"
    trap allow_service_starts EXIT
    forbid_service_starts
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null ||
        fail "apt-get install failed; see its messages above"
    allow_service_starts
    trap - EXIT
    # Without this the next boot would start it. Who had it before keeps it.
    if [ "$had_ovs" = no ] && [ -z "$(missing_packages openvswitch-switch)" ] &&
        command -v systemctl >/dev/null; then
        as_root systemctl disable --quiet openvswitch-switch.service 2>/dev/null || true
        say "packages: the Open vSwitch service stays off; the tests start their own"
    fi
}

# ---- hugepages ----

readonly PAGES_FILE=/sys/kernel/mm/hugepages/hugepages-${PAGE_KIB}kB/nr_hugepages

pages_wanted() {
    local wanted=${RINGWAY_HUGEPAGES:-} memory_kib quarter
    if [ -n "$wanted" ]; then
        [[ $wanted =~ ^[0-9]+$ ]] || fail "RINGWAY_HUGEPAGES is '$wanted', not a number of pages"
        printf '%s\n' "$wanted"
        return
    fi
    memory_kib=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
    quarter=$((memory_kib / 4 / PAGE_KIB))
    printf '%s\n' "$((quarter < DEFAULT_PAGES ? quarter : DEFAULT_PAGES))"
}

ordinary_memory() {
    warn "hugepages: $1"
    warn "hugepages: ringway will use ORDINARY MEMORY: it works the same, more slowly with large tables"
}

reserve_hugepages() {
    local wanted have
    wanted=$(pages_wanted)
    if [ "$wanted" -eq 0 ]; then
        say "hugepages: left alone (0 asked for)"
        return
    fi
    if [ ! -e "$PAGES_FILE" ]; then
        ordinary_memory "this kernel has none of 2 MiB"
        return
    fi
    have=$(cat "$PAGES_FILE")
    if [ "$have" -ge "$wanted" ]; then
        say "hugepages: $have of 2 MiB are reserved, $wanted were wanted"
    else
        # Twice: the second time the kernel has made room.
        for _ in 1 2; do
            printf '%s\n' "$wanted" | as_root tee "$PAGES_FILE" >/dev/null 2>&1 || break
        done
        have=$(cat "$PAGES_FILE")
        if [ "$have" -eq 0 ]; then
            ordinary_memory "none could be reserved (a container? too little free memory?)"
            return
        elif [ "$have" -lt "$wanted" ]; then
            warn "hugepages: only $have of $wanted could be reserved; after a reboot memory is less fragmented"
        else
            say "hugepages: reserved $have of 2 MiB ($((have * PAGE_KIB / 1024)) MiB), until the next reboot"
        fi
    fi
    mount_hugetlbfs
}

# ringway and its tests need no mount; testpmd, Open vSwitch and QEMU with
# memory-backend-file do.
mount_hugetlbfs() {
    if awk -v at="$MOUNT_POINT" '$2 == at && $3 == "hugetlbfs" { found = 1 } END { exit !found }' /proc/mounts; then
        say "hugepages: hugetlbfs is mounted at $MOUNT_POINT"
    elif as_root mkdir -p "$MOUNT_POINT" 2>/dev/null &&
        as_root mount -t hugetlbfs -o "pagesize=${PAGE_KIB}K" nodev "$MOUNT_POINT" 2>/dev/null; then
        say "hugepages: mounted hugetlbfs at $MOUNT_POINT"
    else
        warn "hugepages: hugetlbfs could not be mounted at $MOUNT_POINT; ringway needs no mount, dpdk-testpmd and Open vSwitch do"
    fi
}

# ---- Rust ----

check_rust() {
    local cargo needed have manifest
    cargo=$(command -v cargo || true)
    if [ -z "$cargo" ] && [ -x "$HOME/.cargo/bin/cargo" ]; then
        cargo=$HOME/.cargo/bin/cargo
        warn "Rust: $cargo is not in PATH; run: . \"\$HOME/.cargo/env\""
    fi
    manifest=$(dirname "$(readlink -f "$0")")/../Cargo.toml
    needed=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$manifest" 2>/dev/null | head -n 1)
    needed=${needed:-1.95}
    if [ -z "$cargo" ]; then
        fail "Rust: no cargo found. Install Rust $needed or newer with rustup, as the user who builds, then run this again"
    fi
    have=$("$cargo" --version | awk '{ print $2 }')
    if [ "$(printf '%s\n%s\n' "$needed" "$have" | sort -V | head -n 1)" != "$needed" ]; then
        fail "Rust: cargo is $have, $needed or newer is needed: rustup update stable"
    fi
    say "Rust: cargo $have"
}

main() {
    local build_only=no argument
    for argument in "$@"; do
        case $argument in
        --build-only) build_only=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            usage >&2
            fail "unknown option '$argument'"
            ;;
        esac
    done
    if [ "$build_only" = yes ]; then
        install_packages "${BUILD_PACKAGES[@]}"
    else
        install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
        reserve_hugepages
    fi
    check_rust
    say "ready"
}

main "$@"
