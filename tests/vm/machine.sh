# shellcheck shell=bash disable=SC2154  # what run exports
# What the cases on this machine share that do something to the guest as a whole. Sourced by the case.

in_guest() { ssh -F "$ssh_config" guest "$@"; }

# monitor COMMAND: tells QEMU's monitor something; what it says is in $work/monitor.log.
monitor() { printf '%s\n' "$1" >&"$to_monitor"; }

started=()
# shellcheck disable=SC2329  # the trap's
end_started() { ((${#started[@]} == 0)) || kill -KILL "${started[@]}" 2>/dev/null || true; }
trap end_started EXIT

# The bridge of this machine and its clients, in a network of their own: no port of this machine is taken.
# with_bridge PORT COMMAND…: runs a command beside a bridge from [::1]:PORT to that vsock port of the guest, where a server
# may still be starting.
with_bridge() {
    local port=$1
    shift
    # shellcheck disable=SC2016  # for the inner shell
    unshare --map-root-user --net bash -euc '
        ip link set lo up
        setpriv --pdeathsig KILL systemd-socket-activate --listen="[::1]:$1" "$2" --connect-retry 60s --to "vsock-mux:$3:$1" 2>"$4" &
        bridge=$!
        until ss --no-header --listening --tcp "sport = :$1" | grep -q .; do sleep 0.1; done
        shift 4
        status=0
        "$@" || status=$?
        kill "$bridge"
        exit "$status"' - "$port" "$work/machine/usr/libexec/vsock-bridge/vsock-bridge" "$uds" "$work/bridge-$port.log" "$@"
}

# sshd_behind_bridge: what comes to vsock port 22 of the guest goes through a bridge to sshd on TCP, until the case is over.
# sshd that has the vsock socket itself makes packets that the device of this run drops.
sshd_behind_bridge() {
    trap 'end_started; guest 60 "systemctl stop vsock-bridge@22.socket vsock-bridge@22.service sshd-22; systemctl start sshd-vsock.socket"' EXIT
    guest 60 'systemd-run --quiet --collect --unit=sshd-22 --property=RuntimeDirectory=sshd --property=RuntimeDirectoryPreserve=yes /usr/sbin/sshd -D -p 22'
    guest 60 'systemctl start vsock-bridge@22.socket'
    wait_for 60 in_guest true
}
