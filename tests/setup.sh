#!/usr/bin/env bash
# What the end-to-end tests and the demo need beyond dpdk-build/setup.sh: tools
# from Debian's packages, and the test guest's kernel. Idempotent.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

packages=(
    qemu-system-x86       # real guests
    busybox-static cpio kmod  # their initramfs
    dpdk-dev              # dpdk-testpmd, fast guests
    openvswitch-switch-dpdk   # the harness's own test
    strace                # that the poll loop makes no system calls
    iproute2 procps util-linux  # namespaces, pinning
)

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "tests/setup: installing ${missing[*]}"
    # Open vSwitch is only used by tests, each with one of its own: Debian's
    # service must not start and take a core.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "tests/setup: all packages are installed"
fi

"$here/guest/make-image.sh" "$here/../build/guest"
