# fish completion for vsock-connect(1).

# CIDs and names of machines, as vsockctl knows them.
function __vsock_connect_machines
    vsockctl --quiet hosts 2>/dev/null | string match --invert '#*' |
        string replace --regex '^\S+\s+' '' | string split ' ' | string replace .vsock ''
    printf '%s\n' local vsock/ machine/ libvirt/ unix/ vsock-mux/
end

complete -c vsock-connect -f -a '(__vsock_connect_machines)'
complete -c vsock-connect -l fdpass -d 'Pass the connected socket over stdout'
complete -c vsock-connect -l exec -d 'Run a program with the socket: the rest of the line'
complete -c vsock-connect -l fd -x -d 'Which descriptor of it the socket is'
complete -c vsock-connect -l wait -x -d 'Try again for that long'
complete -c vsock-connect -l connect-timeout -x -d 'How long one attempt may take'
complete -c vsock-connect -l prefix -x -d 'The /64 that maps CIDs to addresses'
complete -c vsock-connect -l names -x -d 'Names of machines'
complete -c vsock-connect -l via -x -a 'none vsock:host:1080' -d 'The gateway to other machines'
complete -c vsock-connect -l mux-answer -x -a 'ok none' -d 'What the monitor says when the port has accepted'
complete -c vsock-connect -l vsock-packet -x -a 'auto infinity' -d 'Size of the packets into vsock'
complete -c vsock-connect -s v -l verbose -d 'Log more'
complete -c vsock-connect -s q -l quiet -d 'Log less'
complete -c vsock-connect -s h -l help -d 'Print help'
complete -c vsock-connect -s V -l version -d 'Print version'
