#!/usr/bin/env bash
# A libvirtd that sees nothing of the host's own: run by
#   unshare --mount --net bash libvirtd.sh
# Its folders are empty ones in memory, and it may run guests as root.
set -euo pipefail
for folder in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run/libvirt; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
done
# libvirt wants this user and group to exist even if it does not use them.
work=/run/libvirt/accounts
mkdir "$work"
cp /etc/passwd /etc/group "$work"
grep -q '^libvirt-qemu:' "$work/passwd" ||
    echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >>"$work/passwd"
for group in libvirt-qemu:64055 kvm:64056; do
    grep -q "^${group%:*}:" "$work/group" || echo "${group%:*}:x:${group#*:}:" >>"$work/group"
done
mount --bind "$work/passwd" /etc/passwd
mount --bind "$work/group" /etc/group
cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = []
CONF
cat >/etc/libvirt/libvirtd.conf <<'CONF'
auth_unix_rw = "none"
unix_sock_group = "root"
CONF
exec libvirtd --pid-file /run/libvirt/libvirtd.pid
