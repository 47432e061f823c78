"""The relays that are compared, each as a service of systemd, with the same limits where it knows them.

Each listens on a port of its own of [::1] and has a target of its own there. All are restarted after a crash, and none
is given up. A relay that takes a listener from systemd gets one. A row may ask for settings of its own; a relay that has
no such setting is not asked that row.
"""

import os

from machine import *

CONNECTIONS = 300  # in all
CONNECTIONS_OF_ONE = 100  # of one peer, for those who can tell peers apart
SERVICE = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={}\nRestart=on-failure\n"
SOCKET = "[Socket]\nListenStream=[::1]:{}\nBacklog=4096\nTriggerLimitIntervalSec=0\n"
PROXYD = "/usr/lib/systemd/systemd-socket-proxyd"
NEXT_PROXYD = "/usr/lib/next/systemd-socket-proxyd"
# The shortest there are, and as many probes as are enough on a machine that drops nothing.
KEEPALIVE = "KeepAlive=yes\nKeepAliveTimeSec=1\nKeepAliveIntervalSec=1\nKeepAliveProbes=3\n"
CLIENT_KEEPALIVE = ("option clitcpka", "clitcpka-idle 1s", "clitcpka-intvl 1s", "clitcpka-cnt 3")
SETTINGS = {
    "connections": CONNECTIONS,
    "connections_of_one": CONNECTIONS_OF_ONE,
    "descriptors": 65536,
    "idle_timeout": None,  # seconds
    "keepalive": False,
    "restart_after": "100ms",
    "target": "usual",
}


class NotAsked(Exception):
    """Why a relay cannot be asked a row."""


class Relay:
    program = ""  # without which it is left out
    has_files = False  # that are not its units
    processes = 1  # while it has no connection

    def __init__(self, name, service, number, has_socket):
        self.name, self.service = name, f"{service}.service"
        self.units = [f"{service}.socket"] if has_socket else [self.service]
        self.number, self.address = number, ("::1", 10000 + number)
        self.settings = SETTINGS

    @property
    def target_address(self):
        places = {
            "usual": ("::1", self.number),
            "in the range of the kernel": ("::1", 40000 + self.number),
            "itself": self.address,
            "unix": f"/run/target-{self.number}",
        }
        return places[self.settings["target"]]

    def is_there(self):
        return pathlib.Path(self.program).exists()

    def configure(self, **settings):
        """Writes what the row asks for, beside what is usual; systemd reads it if it is not what it was."""
        self.settings = SETTINGS | settings
        limits = f"LimitNOFILE={self.settings['descriptors']}\nRestartSec={self.settings['restart_after']}"
        texts = self.files() | {f"/etc/systemd/system/{self.service}.d/50-limits.conf": f"[Service]\n{limits}\n"}
        if any([write_anew(pathlib.Path(path), text) for path, text in texts.items()]):
            systemctl("daemon-reload")

    def files(self):
        """Texts by their paths."""
        raise NotImplementedError

    def renew(self, settings):
        """Lets it begin anew."""
        systemctl("stop", *self.units, self.service)
        self.configure(**settings)
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

    def worker(self):
        """The process that relays."""
        return self.pid()

    def pids(self):
        group = pathlib.Path("/sys/fs/cgroup" + show(self.service, "ControlGroup"))
        return (group / "cgroup.procs").read_text().split()

    def left(self):
        """How many descriptors and processes it has; what a child has is counted with it."""
        pids = self.pids()
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids), len(pids)

    def journal(self):
        return journal_lines(f"--unit={self.service}")

    def version(self):
        return ""

    def title(self):
        return f"{self.name} {self.version()}"

    def command(self):
        return ""


def write_anew(path, text):
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return True


class Ours(Relay):
    program = "/usr/libexec/vsock-bridge/vsock-bridge"

    def __init__(self, number):
        super().__init__("vsock-bridge", f"vsock-bridge@{number}", number, True)

    def files(self):
        listener = f"[Socket]\nListenStream=\nListenStream=[::1]:{self.address[1]}\n"
        target = self.target_address if self.settings["target"] == "unix" else "[{}]:{}".format(*self.target_address)
        options = [f"TO={target}", *(f"{name.upper().replace('-', '_')}={value}" for name, value in self.options())]
        return {
            f"/etc/systemd/system/{self.units[0]}.d/50-case.conf": listener,
            f"/etc/vsock-bridge/vsock-bridge@{self.number}.conf": "".join(f"VSOCK_BRIDGE_{line}\n" for line in options),
        }

    def options(self):
        yield "max-connections", self.settings["connections"]
        yield "max-connections-per-peer", self.settings["connections_of_one"]
        if self.settings["keepalive"]:
            yield "keepalive", "1s"
        if self.settings["idle_timeout"]:
            yield "idle-timeout", f"{self.settings['idle_timeout']}s"

    def version(self):
        return output(self.program, "--version").split()[-1]

    def command(self):
        return " ".join(("vsock-bridge", *(f"--{name} {value}" for name, value in self.options())))


class Proxyd(Relay):
    program = PROXYD

    def __init__(self, number):
        super().__init__("systemd-socket-proxyd", f"test-proxyd-{number}", number, True)

    def files(self):
        if self.settings["idle_timeout"]:
            raise NotAsked("it has no time limit for a connection")
        socket_unit = SOCKET.format(self.address[1]) + KEEPALIVE * self.settings["keepalive"]
        return {
            f"/etc/systemd/system/{self.units[0]}": socket_unit,
            f"/etc/systemd/system/{self.service}": SERVICE.format(self.command()),
        }

    def version(self):
        return output(self.program, "--version").split()[1]

    def command(self):
        # It splits at the last colon, and knows no brackets.
        target = self.target_address if self.settings["target"] == "unix" else "{}:{}".format(*self.target_address)
        return f"{self.program} --connections-max={self.settings['connections']} {target}"


class NextProxyd(Proxyd):
    """That of another systemd, whose version is its name."""

    program = NEXT_PROXYD

    def __init__(self, number):
        super().__init__(number)
        if self.is_there():
            self.name += f" {self.version()}"

    def title(self):
        return self.name


class Socat(Relay):
    program = "/usr/bin/socat"

    def __init__(self, number, *options):
        super().__init__(" ".join(("socat", *options)), f"test-socat-{number}", number, False)
        self.options = options

    def files(self):
        return {f"/etc/systemd/system/{self.service}": SERVICE.format(self.command())}

    def version(self):
        return re.search(r"socat version (\S+)", output("socat", "-V"))[1]

    def command(self):
        limit = self.settings["idle_timeout"]
        options = (*self.options, *(("-T", str(limit)) if limit else ()))
        listener = f"TCP6-LISTEN:{self.address[1]},bind=[::1],fork,reuseaddr,backlog=4096"
        listener += f",max-children={self.settings['connections']}"
        listener += ",keepalive,keepidle=1,keepintvl=1,keepcnt=3" * self.settings["keepalive"]
        is_unix = self.settings["target"] == "unix"
        target = f"UNIX-CONNECT:{self.target_address}" if is_unix else "TCP6:[{}]:{}".format(*self.target_address)
        return " ".join((self.program, *options, listener, target))


class Haproxy(Relay):
    program = "/usr/sbin/haproxy"
    has_files = True
    path = "/etc/test-haproxy.cfg"

    def __init__(self, number):
        super().__init__("HAProxy", "test-haproxy", number, False)

    def files(self):
        return {f"/etc/systemd/system/{self.service}": SERVICE.format(self.command()), self.path: self.text()}

    def text(self):
        limit = self.settings["idle_timeout"] or 86400
        target = "unix@" + self.target_address if self.settings["target"] == "unix" else "[{}]:{}".format(*self.target_address)
        # tcp-ut is its remedy for a peer that is dead with bytes on their way.
        user_timeout = " tcp-ut 10s" * self.settings["keepalive"]
        keepalive = "".join(f"\n    {line}" for line in CLIENT_KEEPALIVE) if self.settings["keepalive"] else ""
        return f"""global
    maxconn {self.settings["connections"]}
    log stdout format raw daemon
defaults
    mode tcp
    log global
    option tcplog
    backlog 4096
    timeout connect 5s
    timeout client {limit}s
    timeout server {limit}s{keepalive}
listen test
    bind [::1]:{self.address[1]}{user_timeout}
    stick-table type ipv6 size 10k store conn_cur
    tcp-request connection track-sc0 src
    tcp-request content reject if {{ sc0_conn_cur gt {self.settings["connections_of_one"]} }}
    server target {target}
"""

    def version(self):
        return re.search(r"version (\d[\d.]*)", output(self.program, "-v"))[1]

    def command(self):
        return f"{self.program} -db -f {self.path}"


class Nginx(Relay):
    program = "/usr/sbin/nginx"
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    has_files = True
    processes = 2
    path = "/etc/test-nginx.conf"

    def __init__(self, number):
        super().__init__("nginx", "test-nginx", number, False)

    def is_there(self):
        return super().is_there() and pathlib.Path(self.module).exists()

    def files(self):
        return {f"/etc/systemd/system/{self.service}": SERVICE.format(self.command()), self.path: self.text()}

    def text(self):
        limit = self.settings["idle_timeout"] or 86400
        target = "unix:" + self.target_address if self.settings["target"] == "unix" else "[{}]:{}".format(*self.target_address)
        keepalive = " so_keepalive=1s:1s:3" * self.settings["keepalive"]
        return f"""load_module {self.module};
daemon off;
pid /run/test-nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 2000; }}
stream {{
    limit_conn_zone $server_port zone=all:1m;
    limit_conn_zone $binary_remote_addr zone=one:1m;
    server {{
        listen [::1]:{self.address[1]} backlog=4096{keepalive};
        limit_conn all {self.settings["connections"]};
        limit_conn one {self.settings["connections_of_one"]};
        proxy_pass {target};
        proxy_connect_timeout 5s;
        proxy_half_close on;
        proxy_timeout {limit}s;
    }}
}}
"""

    def worker(self):
        return next(int(pid) for pid in self.pids() if int(pid) != self.pid())

    def version(self):
        return output(self.program, "-v").rsplit("/", 1)[1]

    def command(self):
        return f"{self.program} -e stderr -c {self.path}"


# socat gives up half a second after the first end unless it is told otherwise, which few do.
EVERY = (Ours(445), Proxyd(446), NextProxyd(451), Socat(447), Socat(448, "-t", "86400"), Haproxy(449), Nginx(450))
ALL = [relay for relay in EVERY if relay.is_there()]
