# bash completion for vsockctl(8) and vsock-connect(1); installed under both names.

# CIDs and names of machines, as vsockctl knows them.
_vsock_machines() {
    vsockctl --quiet hosts 2>/dev/null | sed -n '/^[^#]/ { s/^[^[:space:]]*[[:space:]]*//; s/\.vsock//g; p }'
    echo local
}

# Those that systemd knows.
_vsock_bridges() {
    systemctl list-units --all --plain --no-legend 'vsock-bridge*.socket' 2>/dev/null | sed 's/\.socket .*//'
}

# Sets current, and words to what stands before it. A colon separates words in bash, but not in addresses.
_vsock_split() {
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    current=
    [[ $line == *[[:space:]] ]] || { current=${words[-1]}; unset 'words[-1]'; }
}

_vsockctl() {
    local current word command='' choices
    local -a words
    _vsock_split
    case ${words[-1]} in --prefix | --names) return ;; esac
    for word in "${words[@]:1}"; do
        [[ $word == -* || $word == *[:=]* ]] || command+=" $word"
    done
    case $command in
    '') choices='addr cid prefix hosts rules check list forward machines metrics help' ;;
    ' addr' | ' cid') choices=$(_vsock_machines) ;;
    ' prefix') choices='show generate up down watch' ;;
    ' prefix generate') choices='--write' ;;
    ' hosts') choices='--write --remove --resolved' ;;
    ' rules') choices='--load --unload --gateway --who --to --rules' ;;
    ' check') choices='--user --json' ;;
    ' list'*) choices="--user --json --no-legend --watch $(_vsock_bridges)" ;;
    ' metrics') choices='--openmetrics --http' ;;
    ' forward'*) choices='--allow-cid --persistent --user --remove --dry-run --owner' ;;
    ' machines') choices='--json --no-legend --publish' ;;
    ' help') choices='addr cid prefix hosts rules check list forward machines metrics' ;;
    ' help prefix') choices='show generate up down watch' ;;
    *) choices= ;;
    esac
    [[ $current != -* ]] || choices+=' --prefix --names --verbose --quiet --help --version'
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
}

_vsock_connect() {
    local current choices kind
    local -a words
    _vsock_split
    case ${words[-1]} in --prefix | --names | --wait | --connect-timeout | --via | --mux-answer | --vsock-packet | --fd) return ;; esac
    kind=${current%%/*}
    case $current in
    -*) choices='--fdpass --exec --fd --wait --connect-timeout --prefix --names --via --mux-answer --vsock-packet --verbose --quiet --help --version' ;;
    unix/* | vsock-mux/*)
        mapfile -t COMPREPLY < <(compgen -f -- "/${current#*/}" | sed "s,^,$kind,")
        compopt -o nospace -o filenames 2>/dev/null
        return
        ;;
    vsock/*) choices=$(_vsock_machines | sed 's,[^[:space:]]*,vsock/&,g') ;;
    *) choices="$(_vsock_machines) vsock/ machine/ libvirt/ unix/ vsock-mux/" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
    [[ ${COMPREPLY[*]} != */ ]] || compopt -o nospace 2>/dev/null
}

complete -F _vsockctl vsockctl
complete -F _vsock_connect vsock-connect
