#!/bin/busybox sh
# First process of the machine: puts a writable layer over the host's files and goes there.
busybox=/bin/busybox
fail() {
    echo "boot failed: $1"
    $busybox poweroff -f
}
$busybox mkdir -p /proc /sys /dev /host /written /new
$busybox mount -t proc proc /proc || fail "no /proc"
$busybox mount -t sysfs sys /sys || fail "no /sys"
$busybox mount -t devtmpfs dev /dev || fail "no /dev"
while read -r module; do
    $busybox insmod "$module" || fail "the kernel does not take $module"
done < /modules/order
# Nobody else writes what is read here, or if somebody does, either state is as good.
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host ||
    fail "the host's files are not there"
$busybox mount -t tmpfs -o size=75% tmpfs /written || fail "no tmpfs"
$busybox mkdir /written/upper /written/work
$busybox mount -t overlay -o lowerdir=/host,upperdir=/written/upper,workdir=/written/work \
    overlay /new || fail "no overlay"
for folder in proc sys dev run tmp; do
    $busybox mkdir -p /new/$folder
done
for folder in proc sys dev; do
    $busybox mount --move /$folder /new/$folder || fail "cannot move /$folder"
done
$busybox mount -t tmpfs tmpfs /new/run || fail "no /run"
$busybox mount -t tmpfs tmpfs /new/tmp || fail "no /tmp"
$busybox mkdir /new/run/vm
$busybox cp /bin/busybox /inside.sh /run.sh /new/run/vm/ || fail "cannot copy"
exec $busybox switch_root /new /run/vm/busybox sh /run/vm/inside.sh
