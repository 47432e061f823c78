# shellcheck shell=bash
# What the suites share, beyond the library of the cases of tests/vm. There are two ways to the same server: `direct`, to
# [::1], and `bridged`, to P::2, from where the bridge of that address leads to vsock port 2:PORT, which is this machine
# itself, and the bridge of that port to [::1].

# What fails in $(…) is a failure.
shopt -s inherit_errexit

# Standard output is what a command of `both` has to say.
fail() { echo "failed: $*" >&2; exit 1; }

direct=::1
bridged=$(vsockctl addr 2)
suite=$(basename "$0")
mkdir -p /vm/rows /vm/sections
: >"/vm/rows/$suite"

# Programs may call the two ways by their names as well.
grep -q ' bridged$' /etc/hosts || printf '%s\n' "$direct direct" "$bridged bridged" >>/etc/hosts

# subject PACKAGE: what is tried, with its version.
subject() { subject="$1 $(dpkg-query --show --showformat='${source:Upstream-Version}' "$1" | sed 's/+.*//')"; }

# both WHAT PORT COMMAND ARGUMENT…: a line of the table. COMMAND gets the name of a way as its first argument, and says
# what came out.
both() {
    local what=$1 port=$2 command=$3 by_itself by_bridge counted
    shift 3
    by_itself=$("$command" direct "$@")
    by_bridge=$("$command" bridged "$@")
    counted "$port"
    row "$what" "$by_itself" "$by_bridge" "$counted"
}

# row WHAT DIRECT BRIDGED COUNTED
row() { printf '| %s | %s | %s | %s | %s |\n' "$subject" "$@" >>"/vm/rows/$suite"; }

# count BRIDGE: open connections, those that are over, bytes in, bytes out.
count() {
    vsockctl metrics | awk -v bridge="{bridge=\"$1\"" '
        !index($0, bridge) { next }
        /^vsock_bridge_connections{/ { open += $2 }
        /^vsock_bridge_connections_served_total/ { served = $2 }
        /direction="inbound"/ { inbound = $2 }
        /direction="outbound"/ { outbound = $2 }
        END { printf "%d %d %d %d\n", open, served, inbound, outbound }'
}

all_over() { [[ $(count "vsock-bridge@$1") == '0 '* && $(count "vsock-bridge-ipv6@$1") == '0 '* ]]; }

# counted PORT: sets $counted to what came through since the last time, in words. Both bridges must have counted the
# same, once every connection is over, unless the suite set breaks_off: of what a client throws away one had more.
counted() {
    local served inbound outbound
    wait_for 60 all_over "$1"
    [[ $breaks_off ]] || equal "$(count "vsock-bridge-ipv6@$1")" "$(count "vsock-bridge@$1")" 'what both bridges counted'
    read -r _ served inbound outbound < <(count "vsock-bridge@$1")
    ((served > before[0])) || fail 'nothing came through the bridge'
    counted="$((served - before[0])) connection$( ((served - before[0] == 1)) || echo s),"
    counted+=" $(megabytes $((inbound - before[1]))) in, $(megabytes $((outbound - before[2]))) out"
    before=("$served" "$inbound" "$outbound")
}
before=(0 0 0)
breaks_off=

# size_of FOLDER: in words.
size_of() { echo "$(find "$1" -type f | wc -l) files, $(megabytes "$(du --bytes --summarize "$1" | cut -f 1)")"; }

megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }
