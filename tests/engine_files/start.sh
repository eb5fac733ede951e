#!/bin/sh
# Start a Docker Engine in ROOT, a folder with Debian and its docker.io, as the first process of new namespaces:
#
#   unshare --mount --net --pid --fork --kill-child tests/engine_files/start.sh ROOT STATE CHECKOUT WHEELS
#
# It has a network of its own with loopback alone, so neither its firewall rules nor its ports touch this machine,
# and all of it ends with this process. STATE keeps images and volumes. Builds find WHEELS at 127.0.0.1:8000.
set -eu
root=$1
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mkdir -p "$root/var/lib/docker" "$root/checkout" "$root/wheels" "$root/outside"
mount --bind "$2" "$root/var/lib/docker"
mount --bind "$3" "$root/checkout"
mount --bind "$4" "$root/wheels"
cd "$root"
pivot_root . outside # Docker cannot unpack an image where / is no mount
# The first process of a namespace gets those that lost their parent, and tini waits for them.
exec env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot . tini -- sh -euc '
  umount --lazy /outside
  python3 -m http.server 8000 --bind 127.0.0.1 --directory /wheels > /dev/null 2>&1 &
  exec dockerd
'
