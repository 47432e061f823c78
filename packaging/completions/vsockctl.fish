# fish completion for vsockctl(8).
set -l commands addr cid prefix hosts rules check list forward machines metrics help
set -l none "not __fish_seen_subcommand_from $commands"

# CIDs and names of machines, as vsockctl knows them.
function __vsockctl_machines
    vsockctl --quiet hosts 2>/dev/null | string match --invert '#*' |
        string replace --regex '^\S+\s+' '' | string split ' ' | string replace .vsock ''
    echo local
end

# Those that systemd knows.
function __vsockctl_bridges
    systemctl list-units --all --plain --no-legend 'vsock-bridge*.socket' 2>/dev/null | string replace --regex '\.socket .*' ''
end

complete -c vsockctl -f
complete -c vsockctl -l prefix -x -d 'The /64 that maps CIDs to addresses'
complete -c vsockctl -l names -x -d 'Names of machines'
complete -c vsockctl -s v -l verbose -d 'Log more'
complete -c vsockctl -s q -l quiet -d 'Log less'
complete -c vsockctl -s h -l help -d 'Print help'
complete -c vsockctl -s V -l version -d 'Print version'

complete -c vsockctl -n "$none" -a addr -d 'Print the address of a machine'
complete -c vsockctl -n "$none" -a cid -d 'Print the CID of a machine'
complete -c vsockctl -n "$none" -a prefix -d 'Show, choose or activate the prefix'
complete -c vsockctl -n "$none" -a hosts -d 'Print or write names of machines'
complete -c vsockctl -n "$none" -a rules -d 'Print, load or remove the nftables rules, or print those of the gateway'
complete -c vsockctl -n "$none" -a check -d 'Print what must be true, and whether it is'
complete -c vsockctl -n "$none" -a list -d 'Show bridges and their open connections'
complete -c vsockctl -n "$none" -a forward -d 'Bring a port or socket of one side to the other'
complete -c vsockctl -n "$none" -a machines -d 'Show the machines that have a name'
complete -c vsockctl -n "$none" -a metrics -d 'Print the numbers of all bridges for Prometheus'
complete -c vsockctl -n "$none" -a help -d 'Print help'

complete -c vsockctl -n '__fish_seen_subcommand_from addr cid' -a '(__vsockctl_machines)'
complete -c vsockctl -n '__fish_seen_subcommand_from prefix; and not __fish_seen_subcommand_from show generate up down watch' -a 'show generate up down watch'
complete -c vsockctl -n '__fish_seen_subcommand_from generate' -l write -d 'Write the prefix to vsock-bridge.conf as well'
complete -c vsockctl -n '__fish_seen_subcommand_from hosts' -l write -d 'Write the names to /etc/hosts'
complete -c vsockctl -n '__fish_seen_subcommand_from hosts' -l remove -d 'Remove the names from /etc/hosts'
complete -c vsockctl -n '__fish_seen_subcommand_from hosts' -l resolved -d 'Static records of systemd-resolved'
complete -c vsockctl -n '__fish_seen_subcommand_from rules' -l load -d 'Load the rules'
complete -c vsockctl -n '__fish_seen_subcommand_from rules' -l unload -d 'Remove the rules'
complete -c vsockctl -n '__fish_seen_subcommand_from rules' -l gateway -d 'Print the rules of the gateway'
complete -c vsockctl -n '__fish_seen_subcommand_from rules' -x -l who -a '(__vsockctl_machines)' -d 'Only rules for this machine'
complete -c vsockctl -n '__fish_seen_subcommand_from rules' -x -l to -d 'Only rules that lead there'
complete -c vsockctl -n '__fish_seen_subcommand_from rules' -r -l rules -d 'Another file'
complete -c vsockctl -n '__fish_seen_subcommand_from check' -l user -d 'Those of your own systemd'
complete -c vsockctl -n '__fish_seen_subcommand_from check' -l json -d 'As JSON'
complete -c vsockctl -n '__fish_seen_subcommand_from list' -l json -d 'As JSON'
complete -c vsockctl -n '__fish_seen_subcommand_from list' -l user -d 'Your own'
complete -c vsockctl -n '__fish_seen_subcommand_from list' -l no-legend -d 'Without titles'
complete -c vsockctl -n '__fish_seen_subcommand_from list' -l watch -d 'Again each second'
complete -c vsockctl -n '__fish_seen_subcommand_from list' -a '(__vsockctl_bridges)'
complete -c vsockctl -n '__fish_seen_subcommand_from metrics' -l openmetrics -d 'In the format of OpenMetrics'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -l allow-cid -x -d 'Machines that may connect over vsock'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -l persistent -d 'Have systemd forward, also after a boot'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -l user -d 'By your own systemd'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -l remove -d 'Undo what --persistent has done'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -l dry-run -d 'Print a script instead of doing it'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -l owner -x -a '(__fish_complete_users)' -d 'Whose the socket is'
complete -c vsockctl -n '__fish_seen_subcommand_from forward' -F
complete -c vsockctl -n '__fish_seen_subcommand_from machines' -l json -d 'As JSON'
complete -c vsockctl -n '__fish_seen_subcommand_from machines' -l no-legend -d 'Without titles'
complete -c vsockctl -n '__fish_seen_subcommand_from machines' -l publish -d 'Write the names for bridges'
complete -c vsockctl -n '__fish_seen_subcommand_from metrics' -l http -d 'Answer one HTTP request on standard input'
