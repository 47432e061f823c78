# shellcheck shell=bash
# What image, run and demo share: where things are, how they speak, what they start and how all of it ends.
# Sourced; the caller has set -euo pipefail. Works as root and, with subordinate ids, as an ordinary user.

vm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$vm_dir/../.." && pwd)
cache=${VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-$vm_dir}/.cache}/vsock-bridge}
# The version is part of the path: another version is another directory, never a half-replaced one.
vhost_version=0.3.0
vhost_root=$cache/vhost-device-vsock-$vhost_version
# The kernel that is a process.
user_mode_root=$cache/user-mode-1
# The Debian in the guest: trixie or bookworm; or sid, the next release, whose image is made anew each week.
suite=${VM_SUITE:-trixie}
# A folder with a file packages, which names what a guest gets beyond the usual; it has an image of its own.
flavour=${VM_FLAVOUR-}
# What the image is made from; their hash is in its name.
recipe=("$vm_dir/image" "$vm_dir/guest/agent" "$vm_dir/guest/agent.service" ${flavour:+"$flavour/packages"})
image=$cache/image-${flavour:+${flavour##*/}-}$suite-$([[ $suite != sid ]] || date +%G-%V-)$(cat "${recipe[@]}" | sha256sum | cut -c1-16)
# Of a release that changes daily, a mirror that is not the newest is as good. There mount(8) is in no package that all have.
mmdebstrap() {
    local options=()
    [[ $suite != sid ]] || options=(--include=mount --aptopt='Acquire::Check-Valid-Until "false"')
    command mmdebstrap "${options[@]}" "$@"
}
# What the guest finds below /vm/cases.
cases=$vm_dir/cases
# Of /vm/data: more than all buffers on the way hold, which are the credit of two vsock sockets, a pipe, and 6 MiB of TCP.
data_bytes=12000000

# ---- words --------------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*" >&2; }
die() { say "tests/vm: $*"; exit 1; }

# stage NAME COMMAND…: one line when it is over, with its duration.
stage() {
    local name=$1 started=$EPOCHREALTIME
    shift
    "$@"
    say "$(printf '%-62s %6s s' "$name" "$(since "$started")")"
}

since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# lock_cache PART: makes the cache and has this part of it alone, until the script ends: two of them would build the same.
lock_cache() {
    local lock
    mkdir -p "$cache"
    exec {lock}>"$cache/lock-$1"
    flock --nonblock "$lock" || { say "waiting for another who makes the same: $1"; child flock "$lock"; }
}

# ---- processes: every one of them ends with the script ------------------------------------------------------------

spawned=()
children=()
temporary=()
# A case that sources this has them from `run`.
work=${work-}
programs=${programs-}

# under_deadline SECONDS SCRIPT ARGUMENT…: starts the script again under timeout(1). --foreground keeps ^C working.
under_deadline() {
    [[ -z ${VM_UNDER_DEADLINE-} ]] || return 0
    VM_UNDER_DEADLINE=yes exec timeout --foreground --kill-after=20 "$@"
}

# Makes $work and sees to it that nothing outlives the script.
begin() {
    trap finish EXIT
    trap 'exit 130' INT
    trap 'say "tests/vm: stopped: out of time, or told to end"; exit 143' TERM HUP
    work=$(mktemp -d "${TMPDIR:-/tmp}/vsock-bridge-vm.XXXXXX")
    temporary+=("$work")
    programs=$work/machine/usr/bin
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    # The guest and its servers have nothing to keep; a child may have something to clear away.
    # Without the words of bash about each that was killed.
    local pid ended=()
    {
        ((${#spawned[@]} == 0)) || kill -KILL "${spawned[@]}" || true
        for pid in "${children[@]}"; do end_tree "$pid"; done
        wait
    } 2>/dev/null
    for pid in "${ended[@]}"; do wait_for 15 gone "$pid" || kill -KILL "$pid" || true; done
    as_root rm -rf --one-file-system "${temporary[@]}"
    exit "$status"
}

# Asks a process and all below it to end, the upper ones first, so that they do not start others. Adds to ended.
end_tree() {
    local below pid
    below=$(pgrep --parent "$1" || true)
    ended+=("$1")
    kill "$1" || true
    for pid in $below; do end_tree "$pid"; done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# spawn NAME COMMAND…: in the background, output in $work/NAME.log. pdeathsig covers a script that is killed with -9.
spawn() {
    local name=$1
    shift
    setpriv --pdeathsig KILL "$@" >"$work/$name.log" 2>&1 </dev/null &
    spawned+=($!)
}

# child COMMAND…: like calling it, but bash handles a signal at once and not when the command is over. Its output goes to a file:
# a signal within $(…) waits for the end of that, and bash 5.2 may then take its trap for a part of it.
child() {
    local status=0
    "$@" <&0 &
    children+=($!)
    wait $! || status=$?
    unset 'children[-1]'
    return "$status"
}

# wait_for SECONDS COMMAND…: polls, since sockets and processes announce themselves to nobody.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# A command as root; an ordinary user is root in a user namespace of their own.
as_root() {
    if ((EUID == 0)); then "$@"; else unshare "${user_namespace[@]}" "$@"; fi
}
user_namespace=()
((EUID == 0)) || user_namespace=(--map-root-user --map-auto)

# ---- the payload: what the guest gets on its second disk ----------------------------------------------------------

# The Debian packages, the cases, data that are the same each time, and a key that opens root's account; and what installing
# the package adds to the guest's Debian.
make_payload() {
    local tree=$work/payload name
    mkdir -p "$tree/vm/packages"
    make_packages "$tree/vm/packages"
    cp -r "$vm_dir"/guest/{*.sh,*.py,run-case} "$tree/vm/"
    cp -r "$cases" "$tree/vm/cases"
    cp -r "$top"/{README.md,man,docs/recipes} "$tree/vm/"
    cp -r "$top/packaging/debian/tests" "$tree/vm/autopkgtest"
    { openssl enc -aes-128-ctr -nosalt -pbkdf2 -pass pass:vsock-bridge </dev/zero 2>/dev/null || true; } |
        head -c "$data_bytes" >"$tree/vm/data"
    ssh-keygen -q -t ed25519 -N '' -C vsock-bridge -f "$work/key"
    install -d -m 700 "$tree/root" "$tree/root/.ssh"
    install -m 600 "$work/key.pub" "$tree/root/.ssh/authorized_keys"
    # Each start and reload of systemd would run these and load those units, and the guest has nothing for them.
    install -d "$tree/etc" "$tree/etc/systemd" "$tree/etc/systemd/system-generators"
    for name in debug getty gpt-auto hibernate-resume rc-local system-update sysv tpm2; do
        ln -s /dev/null "$tree/etc/systemd/system-generators/systemd-$name-generator"
    done
    # Each terminal would be two units, of which User Mode Linux had 640, and logins would wait at some of them.
    install -d "$tree/etc/systemd/system" "$tree/etc/udev" "$tree/etc/udev/rules.d"
    for name in getty-static.service dev-{hugepages,mqueue}.mount sys-kernel-{config,debug,tracing}.mount systemd-binfmt.service \
        sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount modprobe@{configfs,drm,efi_pstore,fuse}.service; do
        ln -s /dev/null "$tree/etc/systemd/system/$name"
    done
    ln -s /usr/lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
    echo 'SUBSYSTEM=="tty", TAG-="systemd"' >"$tree/etc/udev/rules.d/99-tty.rules"
    # The disk is the archive itself. Only what is in the tree, not the tree: that would be the guest's /.
    (cd "$tree" && tar --owner=0 --group=0 --numeric-owner -cf "$work/payload.tar" -- *)
    as_root unshare --mount "$vm_dir/installed" "$image/root" "$tree/vm/packages/vsock-bridge.deb" >"$work/installed.tar"
    tar --concatenate --file="$work/payload.tar" "$work/installed.tar"
}

# make_packages FOLDER: the packages under short names, one of an older version, and for this machine the programs in them.
make_packages() {
    local built=${VM_PACKAGES-} name
    if [[ ! $built ]]; then
        child "$top/packaging/deb" >"$work/package.out"
        built=$(<"$work/package.out")
    fi
    for name in vsock-bridge libnss-vsock; do
        cp "$built/$name"_*.deb "$1/$name.deb"
    done
    dpkg-deb --extract "$1/vsock-bridge.deb" "$work/machine"
    # The same files: what an upgrade does is up to the scripts of the package.
    dpkg-deb --raw-extract "$1/vsock-bridge.deb" "$work/previous"
    sed -i 's/^Version: .*/&~previous/' "$work/previous/DEBIAN/control"
    dpkg-deb --root-owner-group -Znone --build "$work/previous" "$1/previous.deb" >/dev/null
}

# ---- the guest ----------------------------------------------------------------------------------------------------

# Starts the guest, with CID 3.
boot() {
    start_device
    local monitor=()
    if ! is_in_user_mode; then
        mkfifo "$work/monitor.in" "$work/monitor.out"
        # shellcheck disable=SC2034  # the monitor is for the cases
        exec {to_monitor}<>"$work/monitor.in"
        spawn monitor cat "$work/monitor.out"
        monitor=(-chardev "pipe,id=monitor,path=$work/monitor" -mon 'chardev=monitor,mode=readline')
    fi
    power_on guest vhost 2G '' "${monitor[@]}"
    to_guest=$to_agent from_guest=$from_agent qemu_pid=$! console=$work/guest.log
}

# boot_sibling NAME: the second machine, with CID 4. It is made of the same image, but has a machine id of its own, and so a
# prefix.
boot_sibling() {
    power_on sibling sibling 1G "systemd.hostname=$1 systemd.machine_id=fedcba9876543210fedcba9876543210"
    to_sibling=$to_agent from_sibling=$from_agent sibling_pid=$!
}

# of_sibling COMMAND…: does to the second machine what the command does to the guest.
of_sibling() {
    local to_guest=$to_sibling from_guest=$from_sibling qemu_pid=$sibling_pid console=$work/sibling.log
    "$@"
}

# The vsock devices of both, each a program with a unix socket. The second machine may connect to the first one.
start_device() {
    uds=$work/guest.vsock
    # Its defaults, which drop a packet that Linux has scattered: of more than 31 KiB, since 2025.
    spawn vhost "$vhost_root/bin/vhost-device-vsock" --vm "guest-cid=3,socket=$work/vhost.sock,uds-path=$uds" \
        --vm "guest-cid=4,socket=$work/sibling.sock,uds-path=$work/sibling.vsock"
    wait_for 10 test -S "$work/vhost.sock" || die "vhost-device-vsock did not start: $(cat "$work/vhost.log")"
}

# power_on NAME DEVICE MEMORY WORDS OPTION…: a machine with a throw-away root, the payload, a log of its console, and the
# agent's serial port; WORDS are for its kernel, the options for QEMU.
power_on() {
    local name=$1
    mkfifo "$work/$name-agent.in" "$work/$name-agent.out"
    exec {to_agent}<>"$work/$name-agent.in" {from_agent}<>"$work/$name-agent.out"
    if is_in_user_mode; then start_process "$@"; else start_qemu "$@"; fi
}

# The new system call of mount(8) wants a key for the path, and the old one takes it as it is.
mount_modules='mount -t hostfs -o hostfs=/usr/lib/uml/modules none /lib/modules 2>/dev/null || mount -t hostfs -o /usr/lib/uml/modules none /lib/modules'

# One whose kernel is a process. Nothing is emulated, and it boots in seconds.
# c: it locks no disk, which nobody writes to; QEMU opens none that somebody has locked. seccomp=auto: programs of the guest
# call its kernel by a signal of their own, where the host allows that, and not by being traced.
start_process() {
    local name=$1 device=$2 memory=$3 words=$4 processor
    choose_processor
    spawn "$name" taskset --cpu-list "$processor" "${user_mode[@]}" "$image" "$work" \
        con=null con0=null,fd:1 ssl1=fd:8,fd:9 mem="$memory" \
        ubd0c="/work/$name.cow,/image/root.ext4" ubd1rc=/work/payload.tar virtio_uml.device="/work/$device.sock:19" \
        seccomp=auto pty.legacy_count=0 lsm=apparmor,bpf "${kernel_words[@]}" "$words" root=/dev/ubda rw init=/bin/bash -- -c \
        '"'"$mount_modules"'; [ -e /vm ] || tar -C / -xf /dev/ubdb; exec env -i HOME=/ TERM=linux /sbin/init"' \
        8<"$work/$name-agent.in" 9>"$work/$name-agent.out"
}
# The one that this guest runs on. Its kernel and its programs are processes that take turns: to wake each other on another
# processor costs more than most of what they do. Two guests have two, as long as there are as many.
choose_processor() {
    local lock
    mkdir -p "$cache"
    for processor in $(processors_allowed | shuf); do
        exec {lock}>"$cache/lock-processor-$processor"
        ! flock --nonblock "$lock" || return 0
        exec {lock}>&-
    done
}

# From a list as in proc_pid_status(5): "0-1,4".
processors_allowed() {
    local first last
    sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status | tr , '\n' | while IFS=- read -r first last; do
        seq "$first" "${last:-$first}"
    done
}
user_mode=(unshare --mount --propagation private --pid --fork --kill-child "$vm_dir/user-mode" "$user_mode_root")
((EUID == 0)) || user_mode=(unshare --map-root-user --map-auto "${user_mode[@]:1}")

# Whoever wants Debian's own has nothing to do, or VM_KERNEL=stock; for others, where there is no KVM, a process is much faster
# than emulation.
kernel=stock
choose_kernel() {
    [[ ${VM_KERNEL-} != stock ]] || return 0
    choose_accelerator
    [[ $accelerator == kvm ]] || ! child runs_in_user_mode || kernel=user-mode
}
is_in_user_mode() { [[ $kernel == user-mode ]]; }
kind_of_machine() { if is_in_user_mode; then echo 'User Mode Linux'; else echo "QEMU, $accelerator"; fi; }

# A host may forbid it, and a processor have what it does not know, so let it try. The memory of a guest is in /dev/shm.
runs_in_user_mode() {
    [[ -d $user_mode_root ]] && (($(df --output=avail --block-size=1M /dev/shm | tail -n 1) > 3000)) || return 1
    # shellcheck disable=SC2016  # for the guest
    timeout --signal=KILL 30 "${user_mode[@]}" "$image" "$work" con=null con0=null,fd:1 mem=256M seccomp=auto \
        ubd0rc=/image/root.ext4 root=/dev/ubda ro init=/bin/bash -- -c '"echo it has $((6 * 7))"' \
        </dev/null >"$work/user-mode.log" 2>&1 || true
    grep -q 'it has 42' "$work/user-mode.log"
}

# One that QEMU emulates, or KVM runs.
start_qemu() {
    local name=$1 device=$2 memory=$3 words=$4
    shift 4
    choose_accelerator
    # It may reboot; one that panics is noticed by its agent.
    spawn "qemu-$name" "${qemu[@]}" -action reboot=reset \
        -accel "$accelerator" -smp "$(processors)" -m "$memory" \
        -object "memory-backend-memfd,id=memory,size=$memory,share=on" -machine memory-backend=memory \
        -kernel "$image/kernel" -initrd "$image/initrd" -append "$(kernel_arguments "$words")" \
        -drive "file=$image/root.ext4,format=raw,if=virtio,snapshot=on" \
        -drive "file=$work/payload.tar,format=raw,if=virtio,readonly=on" \
        -serial "file:$work/$name.log" \
        -chardev "pipe,id=agent,path=$work/$name-agent" -serial chardev:agent \
        -chardev "socket,id=vsock,path=$work/$device.sock" -device vhost-user-vsock-pci,chardev=vsock "$@"
}

# No network device: what arrives came through vsock.
# Without AVX, which libraries would choose: emulated, OpenSSL's AES-GCM with it does 6 MB/s, and 138 without; ChaCha20 12 and 44.
qemu=(qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -nic none -cpu 'max,-avx,-avx2')

# The guest's virtio transport is loaded by hand, so that one boot shows a machine without and with it. Waiting for all
# readers, as the kernel does for each mount of a sandbox, takes a fifth of the boot unless they are told to hurry.
# What systemd does once after an update of /usr has been done when the image was made.
kernel_words=(loglevel=4 systemd.show_status=no modprobe.blacklist=vmw_vsock_virtio_transport rcupdate.rcu_expedited=1
    systemd.condition_needs_update=no)

# What protects a kernel, has drivers for what no case uses, or is a unit for each of 32 serial ports is half of what an
# emulated machine does until it has booted, and a third of each reload. The payload is there before systemd is: a reload
# afterwards would take seconds.
kernel_arguments() {
    printf '%s ' root=/dev/vda rw console=ttyS0 panic=-1 no_timer_check mitigations=off init_on_alloc=0 hardened_usercopy=off \
        lsm=apparmor 8250.nr_uarts=2 modprobe.blacklist=ata_generic,ata_piix,evdev,kvm_amd,kvm_intel,psmouse,serio_raw \
        "${kernel_words[@]}" "$@" \
        init=/bin/bash -- -c '"[ -e /vm ] || tar -C / -xf /dev/vdb; exec env -i HOME=/ TERM=linux /sbin/init"'
}

# Whoever wants a certain one sets it.
accelerator=
choose_accelerator() {
    [[ ! $accelerator ]] || return 0
    accelerator=tcg,thread=multi
    if [[ -r /dev/kvm && -w /dev/kvm ]] && child runs_on_kvm; then accelerator=kvm; fi
}

# Emulated ones wait for each other with all that this machine has: with two, the same cases take a third longer.
processors() { echo "${VM_PROCESSORS:-$([[ $accelerator == kvm ]] && echo 2 || echo 1)}"; }

# A /dev/kvm that opens may still not run a stock kernel (nested, restricted), so let it try one.
runs_on_kvm() {
    timeout 15 "${qemu[@]}" -accel kvm -m 512M -serial stdio \
        -kernel "$image/kernel" -initrd "$image/initrd" -append 'console=ttyS0 rdinit=/bin/true panic=-1' \
        </dev/null 2>/dev/null | grep -q 'Run /bin/true as init'
}

# guest SECONDS COMMAND: one line for the guest's root shell. Its output and status; 124 when no answer came in time, 125
# when the guest has started anew.
guest() {
    local deadline=$((SECONDS + $1)) mark=$EPOCHREALTIME
    printf '%s %s\n' "$mark" "$2" >&"$to_guest"
    read_until "$mark"
}

# booted SECONDS
booted() {
    local deadline=$((SECONDS + $1))
    read_until ready >/dev/null || die "the guest did not boot; the end of its console:
$(tail -n 30 "$console")"
}

# read_until MARK: passes on the agent's lines up to '@MARK STATUS'. Uses the caller's deadline.
read_until() {
    local line='' part
    while ((SECONDS < deadline)) && kill -0 "$qemu_pid" 2>/dev/null; do
        # A read that times out has the beginning of a line.
        IFS= read -r -t 1 -u "$from_guest" part || { line+=$part; continue; }
        line+=$part
        [[ $line != "@$1 "* ]] || return "${line#* }"
        # It has started anew, and nobody had asked for that.
        [[ $line != '@ready 0' ]] || return 125
        # The agent ends output with a line end of its own, which would be an empty line most of the time.
        [[ -z $line ]] || printf '%s\n' "$line"
        line=''
    done
    return 124
}

# From here on the guest reaches the machine as CID 2. Before, it had loopback alone, as any machine can.
load_transport() { guest 60 'modprobe vmw_vsock_virtio_transport && systemctl daemon-reload' >&2; }

# start_guest: with the package installed, and loopback as its only transport.
start_guest() {
    make_ready
    choose_kernel
    boot
    await_guest
}

# What one needs to boot.
make_ready() {
    begin
    child "$vm_dir/prepare"
    child "$vm_dir/image"
    stage 'payload: make deb' make_payload
}

await_guest() {
    stage "guest: $suite has booted ($(kind_of_machine))" booted 180
    set_up_guest
}

# What a guest needs anew after each boot.
set_up_guest() {
    guest 30 'modprobe vsock_loopback' >&2
    # As where AppArmor is in force at boot; the image starts no service of its own.
    guest 60 'apparmor_parser --replace --skip-cache /etc/apparmor.d/vsock-bridge' >&2
    # The guest is both ends of its bridges, and by default they do not let their own machine in.
    guest 30 'systemctl set-environment VSOCK_BRIDGE_ALLOW_CID=any,local' >&2
}

# ---- cases --------------------------------------------------------------------------------------------------------

# chosen WORD…: the cases whose name a word is, or is a part of; all without a word, but those that VM_LONG is for.
chosen() {
    local word name is_long is_chosen=$#
    (($#)) || set -- ''
    for word; do (cd "$cases" && if [[ -f $word ]]; then echo "$word"; else printf '%s\n' *"$word"*; fi); done | grep -vx lib.sh | sort -u | while read -r name; do
        is_long=$(head_of "$name" length '')$(head_of "$name" long '')
        if ((is_chosen)) || { [[ ${VM_LONG-} ]] && [[ $is_long ]]; } ||
            { [[ ! ${VM_LONG-} ]] && [[ $(head_of "$name" length '') != long ]]; }; then
            echo "$name"
        fi
    done
}

# head_of CASE KEY DEFAULT
head_of() {
    local value
    value=$(sed -n "s/^# $2: //p" "$cases/$1")
    echo "${value:-$3}"
}

# ---- the machine's half -------------------------------------------------------------------------------------------

# Set-up A: an ssh configuration that reaches the guest as 'guest' and checks its host key.
write_ssh_config() {
    ssh_config=$work/ssh_config
    sed 's/^/guest /' "$image/root/etc/ssh/ssh_host_ed25519_key.pub" >"$work/known_hosts"
    cat >"$ssh_config" <<CONFIGURATION
Host guest guest-by-relay
    User root
    IdentityFile $work/key
    IdentitiesOnly yes
    BatchMode yes
    HostKeyAlias guest
    CheckHostIP no
    UserKnownHostsFile $work/known_hosts
Host guest
    ProxyCommand $programs/vsock-connect --fdpass vsock-mux/$uds %p
    ProxyUseFdpass yes
Host guest-by-relay
    ProxyCommand $programs/vsock-connect vsock-mux/$uds %p
CONFIGURATION
}

# Set-up B: a file server that the guest reaches at CID 2, port 445.
start_samba() {
    mkdir "$work/share"
    spawn samba unshare "${user_namespace[@]}" --mount --net --pid --fork --kill-child --mount-proc \
        "$vm_dir/samba" "$image/root" "$work/share" "$uds" "$work/machine/usr/libexec/vsock-bridge/vsock-bridge"
    wait_for 30 test -S "${uds}_445" || die "the machine's Samba did not start: $(cat "$work/samba.log")"
}
