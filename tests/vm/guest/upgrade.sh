# shellcheck shell=bash
# What the cases that install another version share. Sourced by the case, which has both bridges on port 7001.
host=$(vsockctl addr 2)
server echo 7001 socat -t 60 'TCP6-LISTEN:7001,bind=[::1],fork,reuseaddr,backlog=64' EXEC:cat
services=(vsock-bridge@7001.service vsock-bridge-ipv6@7001.service)

# The process of each service, and what the kernel has for the prefix.
processes() { systemctl show --property=MainPID --value "${services[@]}" | sed '/^$/d'; }
prefix_state() { ip -6 route show table local "${host%2}/64"; nft list ruleset; }

# goes_on PACKAGE: connections are open, and bytes are on their way in both directions, while it is installed.
goes_on() {
    local before state process
    exchange_once
    before=$(processes) state=$(prefix_state)
    python3 /vm/peers.py "$host" 7001 dpkg --install "$1"
    equal "$(dpkg-deb --field "$1" Version)" "$(dpkg-query --show --showformat='${Version}' vsock-bridge)" 'installed version'
    equal "$state" "$(prefix_state)" 'route and rules'
    # Each service is another process, of the program that is now installed.
    equal 2 "$(comm -13 <(sort <<<"$before") <(processes | sort) | wc -l)" 'new processes'
    for process in $(processes); do
        equal /usr/libexec/vsock-bridge/vsock-bridge "$(readlink "/proc/$process/exe")" 'program of the service'
    done
}
exchange_once() { equal ping "$(echo ping | socat -t 60 - "TCP6:[$host]:7001")" 'answer through both bridges'; }
