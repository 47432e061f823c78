"""The relays that are compared, each as a service of systemd, with the same limits where it knows them.

Each listens on a port of its own of [::1] and has a target of its own there. All are restarted after a crash, and none
is given up. A relay that takes a listener from systemd gets one.
"""

import os

from machine import *

CONNECTIONS = 300  # in all
CONNECTIONS_OF_ONE = 100  # of one peer, for those who can tell peers apart
SERVICE = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={}\nRestart=on-failure\nRestartSec=100ms\nLimitNOFILE=65536\n"
SOCKET = "[Socket]\nListenStream=[::1]:{}\nBacklog=4096\nTriggerLimitIntervalSec=0\n"
PROXYD = "/usr/lib/systemd/systemd-socket-proxyd"


class Relay:
    def __init__(self, name, service, number, has_socket):
        self.name, self.service = name, f"{service}.service"
        self.units = [f"{service}.socket"] if has_socket else [self.service]
        self.address, self.target_address = ("::1", 10000 + number), ("::1", number)

    def install(self):
        """Writes what is not shipped."""

    def renew(self):
        """Lets it begin anew."""
        wait_until(self.is_renewed, f"{self.name} begins anew")
        # A service that is active may not listen yet.
        wait_until(self.listens, f"{self.name} listens")

    def is_renewed(self):
        systemctl("stop", *self.units, self.service)
        systemctl("reset-failed", *self.units, self.service)
        # Refused while a restart after a crash is still on its way.
        return systemctl("start", *self.units) == ""

    def listens(self):
        return f"[::1]:{self.address[1]} " in output("ss", "--listening", "--tcp", "--numeric", "--no-header")

    def pid(self):
        return main_pid(self.service)

    def left(self):
        """How many descriptors and processes it has; what a child has is counted with it."""
        group = pathlib.Path("/sys/fs/cgroup" + show(self.service, "ControlGroup"))
        pids = (group / "cgroup.procs").read_text().split()
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids), len(pids)

    def journal(self):
        return journal_lines(f"--unit={self.service}")

    def version(self):
        return ""

    def command(self):
        return ""


class Ours(Relay):
    def __init__(self, number):
        super().__init__("vsock-bridge", f"vsock-bridge@{number}", number, True)

    def install(self):
        listen_on(self.units[0], f"[::1]:{self.address[1]}")
        instance = self.service.removesuffix(".service")
        configure(instance, MAX_CONNECTIONS=CONNECTIONS, MAX_CONNECTIONS_PER_PEER=CONNECTIONS_OF_ONE)

    def version(self):
        return output("/usr/libexec/vsock-bridge/vsock-bridge", "--version").split()[-1]

    def command(self):
        return f"vsock-bridge --max-connections {CONNECTIONS} --max-connections-per-peer {CONNECTIONS_OF_ONE}"


class Proxyd(Relay):
    def __init__(self, number):
        super().__init__("systemd-socket-proxyd", "test-proxyd", number, True)

    def install(self):
        write_unit(self.units[0], SOCKET.format(self.address[1]))
        write_unit(self.service, SERVICE.format(self.command()))

    def version(self):
        return output(PROXYD, "--version").split()[1]

    def command(self):
        # It splits at the last colon, and knows no brackets.
        return f"{PROXYD} --connections-max={CONNECTIONS} ::1:{self.target_address[1]}"


class Socat(Relay):
    def __init__(self, number, *options):
        super().__init__(" ".join(("socat", *options)), f"test-socat-{number}", number, False)
        self.options = options

    def install(self):
        write_unit(self.service, SERVICE.format(self.command()))

    def version(self):
        return re.search(r"socat version (\S+)", output("socat", "-V"))[1]

    def command(self):
        listener = f"TCP6-LISTEN:{self.address[1]},bind=[::1],fork,reuseaddr,backlog=4096,max-children={CONNECTIONS}"
        return " ".join(("/usr/bin/socat", *self.options, listener, f"TCP6:[::1]:{self.target_address[1]}"))


# socat gives up half a second after the first end unless it is told otherwise, which few do.
ALL = (Ours(445), Proxyd(446), Socat(447), Socat(448, "-t", "86400"))
