#!/usr/bin/env bash
# Makes the test guest: Debian's cloud kernel and an initramfs of busybox and
# the virtio modules. No disk, nothing installed on the host.
#
#   make-image.sh DIRECTORY     writes DIRECTORY/vmlinuz, initramfs.gz and probe
#
# probe is the guest's and the namespaces' UDP and TCP peer, in one static file.
# Does nothing when all are there and newer than this script, `init` and `probe.rs`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?usage: make-image.sh DIRECTORY}
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.lock"
flock 9

newer() {
    local source
    for source in init make-image.sh probe.rs; do
        [ "$1" -nt "$here/$source" ] || return 1
    done
}
if newer "$out/initramfs.gz" && [ -s "$out/vmlinuz" ] && [ -x "$out/probe" ]; then
    exit 0
fi

say() { echo "make-image: $*"; }
fail() { echo "make-image: $*" >&2; exit 1; }

for tool in apt-get apt-cache dpkg-deb cpio gzip rustc; do
    command -v "$tool" >/dev/null || fail "$tool is missing; run \`make setup\`"
done
busybox=$(command -v busybox) || fail "busybox is missing; run \`make setup\`"
if ldd "$busybox" >/dev/null 2>&1; then
    fail "$busybox is linked dynamically and cannot run in an initramfs; run \`make setup\` (package busybox-static)"
fi

package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1)
[ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64; run \`apt-get update\` and try again"

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "downloading $package"
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package") \
    || fail "could not download $package; run \`apt-get update\` and try again"
dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel"
release=$(basename "$work"/kernel/lib/modules/*)

rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols \
    -o "$work/probe" "$here/probe.rs" || fail "probe.rs did not compile"

# virtio_net and all that it needs, plus VLAN interfaces.
root=$work/root
mkdir -p "$root/bin" "$root/lib/modules/$release"
cp "$busybox" "$root/bin/busybox"
cp "$here/init" "$root/init"
cp "$work/probe" "$root/bin/probe"
chmod 755 "$root/init" "$root/bin/busybox" "$root/bin/probe"
tree=lib/modules/$release
(cd "$work/kernel" && "$busybox" depmod -b . "$release")
# Lines of modules.dep: a module, a colon, all that it needs.
for wanted in virtio_pci virtio_net 8021q; do
    grep "/$wanted\.ko:" "$work/kernel/$tree/modules.dep" || fail "the kernel has no module $wanted"
done | tr -d ':' | tr ' ' '\n' | sort -u | while read -r module; do
    install -D -m 644 "$work/kernel/$tree/$module" "$root/$tree/$module"
done
(cd "$root" && "$busybox" depmod -b . "$release")

(cd "$root" && find . -print0 | cpio --quiet --null -o -H newc | gzip -1) >"$work/initramfs.gz"
cp "$work/kernel/boot/vmlinuz-$release" "$work/vmlinuz"
mv "$work/vmlinuz" "$out/vmlinuz"
mv "$work/probe" "$out/probe"
mv "$work/initramfs.gz" "$out/initramfs.gz"
# The KVM probe's answer belongs to the kernel that was probed.
rm -f "$out/accelerator"
say "made $out/vmlinuz and initramfs.gz (kernel $release)"
