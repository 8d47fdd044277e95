# First process of the machine once the host's files are its own: what a node has, then run.sh.
tests=/dev/ttyS1
end() {
    # The last line, and the machine's exit code: 33 for success, 35 for failure.
    echo "vm: run.sh ended with $1" > $tests
    if [ "$1" = 0 ]; then code='\020'; else code='\021'; fi
    printf "$code" | /run/vm/busybox dd of=/dev/port bs=1 seek=244 2> /dev/null
    /run/vm/busybox poweroff -f
}
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/vm
/run/vm/busybox stty -F $tests raw -echo
exec > /dev/console 2>&1
release=$(/run/vm/busybox uname -r)
mkdir -p /dev/pts /dev/shm /run/netns "/lib/modules/$release"
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount --bind "@MODULES@/$release" "/lib/modules/$release"
ip link set lo up
# Snapshots that the tests are asked to write are for the host.
if [ -n "@SNAPSHOTS@" ]; then
    mount -t 9p -o trans=virtio,version=9p2000.L snapshots "@SNAPSHOTS@"
fi
# What a node has loaded; whatever else is needed the kernel asks for by itself.
for module in @LOADED@; do
    # Devices that nobody has asked for are in the way.
    if [ "$module" = dummy ]; then options=numdummies=0; else options=; fi
    modprobe "$module" $options || echo "SKIP the module $module: the kernel does not load it" > $tests
done
if [ @INTERACTIVE@ = true ]; then
    setsid -c /bin/sh /run/vm/run.sh < $tests > $tests 2>&1
    end $?
fi
# Through a pipe, since programs write colours to a terminal.
{
    /bin/sh /run/vm/run.sh < /dev/null 2>&1
    echo $? > /run/vm/code
} | cat > $tests
read -r code < /run/vm/code
end "$code"
