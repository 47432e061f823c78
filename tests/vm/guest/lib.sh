# shellcheck shell=bash
# What the cases in the guest share. run-case sources it and then the case, under errexit, nounset and pipefail.
# shellcheck source=tests/vm/guest/document.sh
. /vm/document.sh
# shellcheck source=tests/vm/guest/recipes.sh
. /vm/recipes.sh

# shellcheck disable=SC2034  # for the cases
data=/vm/data

# ---- ends ---------------------------------------------------------------------------------------------------------

ends=()
# at_end COMMAND: when the case is over, however it ends. The last one runs first.
at_end() { ends=("$1" "${ends[@]}"); }
end_case() {
    local status=$? command
    trap - EXIT
    set +e
    for command in "${ends[@]}"; do eval "$command" >/dev/null; done
    exit "$status"
}
trap end_case EXIT
# timeout's TERM would otherwise skip the above.
trap 'exit 143' TERM

fail() { echo "failed: $*"; exit 1; }
note() { echo "note: $*"; }

# ---- waiting and comparing ----------------------------------------------------------------------------------------

# wait_for SECONDS COMMAND…: looks more rarely the longer it has waited: a look takes the processor from what is waited for.
wait_for() {
    local began=$SECONDS deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "still not true: $*"
        sleep "0.$((SECONDS - began < 4 ? SECONDS - began + 1 : 5))"
    done
}

# equal EXPECTED ACTUAL WHAT
equal() { [[ $1 == "$2" ]] || fail "$3: expected '$1', got '$2'"; }

# contains TEXT PART: PART is fixed text.
contains() { [[ $1 == *"$2"* ]] || fail "'$2' is not in: $1"; }

same() { cmp "$1" "$2" || fail "$2 differs from $1"; }

# refused STATUS COMMAND…: the command must fail with this status. Its output is in $said.
refused() {
    local expected=$1 status=0
    shift
    said=$("$@" 2>&1 </dev/null) || status=$?
    echo "$said"
    equal "$expected" "$status" "exit status of $*"
}

one_line() { equal 1 "$(wc -l <<<"$1")" "number of lines of '$1'"; }

# What a unit has said since the case began.
case_began=$(date +%s.%N)
journal() { journalctl --unit "$1" --since "@$case_began" --output=cat --quiet; }
journal_has() { journal "$1" | grep -E -- "$2"; }

# listens PORT: a server does; a bridge may have the same port of the prefix.
listens() { [[ -n $(ss --no-header --listening --tcp --numeric "sport = :$1 and not src fd00::/8") ]]; }

# ---- the examples of the manuals, which tests/programs/manual_examples.rs holds against the pages ---------------------

# example COMMAND [SED]: runs the line of an example as it stands, or with that change.
example() {
    local line
    line=$(sed "${2-}" <<<"$1")
    echo "example: $line" >&2
    eval "$line"
}

# shown PAGE LINE: the display that begins with this line; for a command, what is shown below it.
shown() {
    sed 's/^\.Dl //; s/\\-/-/g; s/\\(aq/'\''/g; s/\\(dq/"/g; s/\\(ga/`/g; s/\\e/\\/g' "/vm/man/$1" |
        awk -v first="$2" '
            on && (/^\./ || is_session && /^[#$] /) { on = 0 }
            on
            !found && $0 == first { on = found = 1; is_session = /^[#$] /; if (!is_session) print }
            END { exit !found }'
}

# The prefix of the examples, and a name that they have, for a machine that is CID 2 to itself.
settings_of_examples() {
    at_end 'systemctl daemon-reload; systemctl stop vsock-bridge-prefix.service'
    configure vsock-bridge VSOCK_BRIDGE_PREFIX=fd00:abcd:ef12::/64 'VSOCK_BRIDGE_NAMES="web=2"'
    cp -p /etc/hosts /tmp/hosts
    at_end 'cp /tmp/hosts /etc/hosts; rm -f /tmp/hosts /etc/vsock-bridge/hosts-written'
    systemctl stop vsock-bridge-prefix.service
    systemctl daemon-reload
}

# The examples say nothing of the keys of hosts, and nobody is there to be asked.
new_host_keys() {
    at_end 'rm -f ~/.ssh/config'
    ssh_key
    printf '%s\n' 'BatchMode yes' 'StrictHostKeyChecking no' 'UserKnownHostsFile /dev/null' >~/.ssh/config
}

# nss_module: names resolve by it until the case is over. dpkg takes half a minute here; 57-purge has what its package does.
nss_module() {
    cp -p /etc/nsswitch.conf /tmp/nsswitch.conf
    at_end 'mv /tmp/nsswitch.conf /etc/nsswitch.conf; rm /usr/lib/*/libnss_vsock.so.2'
    dpkg-deb --fsys-tarfile /vm/packages/libnss-vsock.deb | tar -C / -x --wildcards './usr/lib/*'
    sed -i '/^hosts:/s/ dns/ vsock dns/' /etc/nsswitch.conf
}

# ---- bridges ------------------------------------------------------------------------------------------------------

# bridges PORT: both halves of set-up B, of which the machine with loopback is both ends. Started only: 'enable' reloads
# systemd, which takes seconds in an emulated guest, and one case shows it.
bridges() {
    at_end "systemctl stop vsock-bridge{,-ipv6}@$1.{socket,service}"
    systemctl start "vsock-bridge@$1.socket" "vsock-bridge-ipv6@$1.socket"
}

# ---- vsockctl check -----------------------------------------------------------------------------------------------

# look: the status, and the lines that are not OK.
look() {
    local status=0
    table=$(vsockctl check 2>&1) || status=$?
    # systemctl has ten seconds there, which an emulated guest may not give it.
    [[ $table != *'gave no answer in time'* ]] || { status=0; table=$(vsockctl check 2>&1) || status=$?; }
    # The device of this guest does what it is warned of.
    wrong=$(grep -v '^OK' <<<"$table" | grep -v '^vsockctl: \|^WARN *sshd .*may drop its large packets' || true)
    failed=$(grep '^FAIL' <<<"$table" || true)
    equal "$([[ ! $failed ]] || echo failed)" "$( ((status == 0)) || echo failed)" "exit status $status of: $table"
}

# clean WHEN
clean() { look; equal '' "$wrong" "what is wrong $1"; }

# broken LEVEL SUBJECT TEXT: the first line that is not OK, and no other one fails. Its command is in $command.
broken() {
    look
    echo "$wrong"
    local first
    first=$(head -n 1 <<<"$wrong")
    [[ $first =~ ^$1\ +$2\ \ .*$3 ]] || fail "$2, $3: $table"
    ((${#failed} == 0)) || equal "$first" "$failed" 'the lines that fail'
    # shellcheck disable=SC2016  # for sed
    command=$(sed -n 's/.*; run `\(.*\)`$/\1/p' <<<"$first")
}

# mend: the command does.
mend() {
    echo "$command"
    eval "$command"
    clean "after $command"
}

# ---- machines of other kinds --------------------------------------------------------------------------------------

# Debian's User Mode Linux, unlike Debian's own kernel, has no nftables for IPv6.
lacks_rules() { grep -q 'User Mode Linux' /proc/cpuinfo; }

# without_rules_it_lacks: a machine whose kernel has none does not want any, as vsock-bridge(8) has it, until the case is over.
without_rules_it_lacks() {
    lacks_rules || return 0
    at_end 'systemctl unmask --runtime vsock-bridge-rules.service'
    systemctl mask --runtime vsock-bridge-rules.service
    systemctl reset-failed vsock-bridge-rules.service 2>/dev/null || true
}

# without_vsock NAME…: in the namespaces a socket unit listens at /run/NAME instead, and where set-up B leads to vsock, it
# leads there.
without_vsock() {
    local name
    for name; do
        mkdir -p "/etc/systemd/system/$name.socket.d"
        printf '%s\n' '[Socket]' ListenStream= "ListenStream=/run/$name" RemoveOnStop=yes >"/etc/systemd/system/$name.socket.d/50-case.conf"
        [[ $name != vsock-bridge@* ]] || configure "vsock-bridge-ipv6@${name#*@}" "VSOCK_BRIDGE_TO=/run/$name"
    done
    systemctl daemon-reload
}

# configure UNIT LINE…: the environment file of one instance, for this case.
configure() {
    local file=/etc/vsock-bridge/$1.conf
    shift
    mkdir -p /etc/vsock-bridge
    at_end "rm -f $file"
    printf '%s\n' "$@" >"$file"
}

# server NAME COMMAND…: a transient service that ends with the case. Returns once PORT is listened to.
server() {
    local name=$1 port=$2
    shift 2
    at_end "systemctl stop $name"
    systemd-run --quiet --collect --unit="$name" "$@"
    wait_for 60 listens "$port"
}

# ---- another process in the place of a bridge's -------------------------------------------------------------------

# carried HOST PORT: the bytes that all connections to it have sent and received.
carried() {
    ss --no-header --tcp --numeric --info state established "dst [$1]:$2" |
        awk '{ for (i = 1; i <= NF; i++) if (split($i, part, ":") == 2) sum[part[1]] += part[2] }
            END { printf "%d %d\n", sum["bytes_acked"], sum["bytes_received"] }'
}

# have_carried HOST PORT SENT RECEIVED BOTH: at least so many bytes each way, and so many in all.
have_carried() {
    local sent received
    read -r sent received < <(carried "$1" "$2")
    ((sent >= $3 && received >= $4 && sent + received >= $5))
}

# own_ports HOST PORT: a connection that was lost and made anew without a word has another one.
own_ports() { ss --no-header --tcp --numeric state established "dst [$1]:$2" | awk '{ print $3 }' | sort; }

main_pid() { systemctl show --property=MainPID --value "$1"; }

# has_another UNIT PROCESS
has_another() {
    local process
    process=$(main_pid "$1")
    ((process != 0 && process != $2))
}

# replace_often HOST PORT UNIT…: restarts each unit twice and kills it as often. Before each of these, the
# connections to HOST and PORT carry more than the buffers on the way hold.
replace_often() {
    local host=$1 port=$2 unit action process sent received
    shift 2
    for _ in 1 2; do
        for unit; do
            for action in restart 'kill --signal=KILL'; do
                read -r sent received < <(carried "$host" "$port")
                wait_for 60 have_carried "$host" "$port" 0 0 $((sent + received + 8000000))
                process=$(main_pid "$unit")
                # shellcheck disable=SC2086  # two words
                systemctl $action "$unit"
                wait_for 60 has_another "$unit" "$process"
            done
        done
    done
}

# ---- set-up A -----------------------------------------------------------------------------------------------------

# A key of root's own that lets root in, once.
ssh_key() {
    [[ -e ~/.ssh/id_ed25519 ]] || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
    grep -qf ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys 2>/dev/null ||
        cat ~/.ssh/id_ed25519.pub >>~/.ssh/authorized_keys
}

# systemd generates a socket unit of the same name where it finds a CID at boot or reload. Starts the one there is.
sshd_up() {
    ssh_key
    at_end 'systemctl stop sshd-vsock.socket'
    systemctl start sshd-vsock.socket
    note "sshd-vsock.socket: $(systemctl show --property=FragmentPath --value sshd-vsock.socket)"
}

# ssh_hosts: the two ways to this machine, as hosts of ssh: 1.vsock has the socket handed over, by-relay has not.
ssh_hosts() {
    sshd_up
    at_end 'rm -f ~/.ssh/config'
    cat >~/.ssh/config <<'CONFIGURATION'
Host *
    User root
    BatchMode yes
    StrictHostKeyChecking accept-new
Host by-relay
    HostKeyAlias 1.vsock
    ProxyCommand vsock-connect 1 %p
CONFIGURATION
}

# sshd_on PORT: sshd on a TCP port of this machine. Not ssh.service, which takes /run/sshd away when it stops.
sshd_on() {
    server "sshd-$1" "$1" --property=RuntimeDirectory=sshd --property=RuntimeDirectoryPreserve=yes \
        /usr/sbin/sshd -D -p "$1"
}

# sshd_connections: how many came over vsock so far.
sshd_connections() { systemctl show --property=NAccepted --value sshd-vsock.socket; }

# ---- set-up B -----------------------------------------------------------------------------------------------------

# samba LINE…: smbd on the addresses of lo only, with one share; LINE is added to the share.
samba() {
    mkdir -p /srv/share
    chown guest /srv/share
    samba_configuration "$@" >/etc/samba/smb.conf
    pdbedit --user=guest >/dev/null 2>&1 || printf 'secret\nsecret\n' | smbpasswd -s -a guest
    at_end 'systemctl stop smbd'
    systemctl restart smbd
    wait_for 60 listens 445
}

samba_configuration() {
    printf '%s\n' '[global]' 'interfaces = lo' 'bind interfaces only = yes' 'disable netbios = yes' 'smb ports = 445' \
        '[share]' 'path = /srv/share' 'read only = no' "$@"
}

# mount_share ADDRESS
mount_share() {
    at_end 'umount /mnt 2>/dev/null || umount --lazy /mnt 2>/dev/null'
    mount -t cifs "//$1/share" /mnt -o username=guest,password=secret,uid=guest
}

# Nothing that is read afterwards comes from a cache of this machine.
forget() {
    umount /mnt
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# keep_share HOST UNIT…: copies go both ways at once, and every byte of them is compared, while all that replace_often
# does happens to the units. The mount keeps the connection that it has.
keep_share() {
    local host=$1 port up down
    shift
    mount_share "$host"
    cp "$data" /mnt/down
    forget
    mount_share "$host"
    at_end 'rm -f /mnt/{up,down}'
    over=$(mktemp --dry-run)
    at_end "rm -f $over"
    port=$(own_ports "$host" 445)
    one_line "$port"
    copies_up & up=$!
    copies_down & down=$!
    replace_often "$host" 445 "$@"
    wait_for 120 have_carried "$host" 445 25000000 25000000 0
    touch "$over"
    wait "$up"
    wait "$down"
    note "bytes sent and received: $(carried "$host" 445)"
    equal "$port" "$(own_ports "$host" 445)" 'own port of the mount'
}

copies_up() {
    until [[ -e $over ]]; do
        cp "$data" /mnt/up
        compare_mounted up
    done
}

copies_down() { until [[ -e $over ]]; do compare_mounted down; done; }

# Pages that are written are dropped, and read again from the server.
compare_mounted() {
    echo 1 >/proc/sys/vm/drop_caches
    same "$data" "/mnt/$1"
}
