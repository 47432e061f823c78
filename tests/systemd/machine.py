"""What the cases share: units and journal of the machine that a case runs on, and plain sockets at both ends.

A case is a script of steps. The first thing that is not as expected ends it with one line, the state of the units and
the end of the journal. Every wait has a deadline.
"""

import collections
import contextlib
import hashlib
import json
import math
import os
import pathlib
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
import traceback

DEADLINE = 20  # seconds, for anything that is not itself a time limit under test


# What a connection that stands still waits for: bytes in queues of the kernel, what each bridge asks epoll for, its threads.
WAITING = """
ss --no-header --oneline --tcp --numeric --memory --info | awk '$2 > 0 || $3 > 0' | cut -c 1-400 | head -n 40
for process in $(pidof vsock-bridge); do
    grep -H . /proc/$process/task/*/{comm,wchan}
    grep -s ^tfd /proc/$process/fdinfo/* | awk '{print $1}' | sort | uniq -c
    for fd in /proc/$process/fd/*; do
        [[ $(readlink "$fd") != pipe:* ]] || echo "$fd $(readlink "$fd") $(grep ^flags /proc/$process/fdinfo/${fd##*/})"
    done | head -n 60
done
"""


class Unexpected(Exception):
    """Something is not as the case says it must be."""


def run(case):
    """Runs the function `case`, and ends the process as it ended."""
    try:
        case()
        expect_all_findings()
    except Exception as problem:  # whatever it is, the reader wants the journal with it
        steps = traceback.extract_tb(problem.__traceback__)[1:]
        way = ", ".join(f"{pathlib.Path(step.filename).name}:{step.lineno}" for step in steps)
        reason = f"{type(problem).__name__} ({way}): {problem}"
        print(reason)
        print(systemctl("list-units", "--all", "--no-legend", "--plain", "vsock-*", "test-*", "sshd-*"))
        print(output("journalctl", "--no-pager", "--output=short-precise", "--lines=60"))
        print(output("bash", "-c", WAITING))
        # Once more, where it is seen by those who have only the end.
        print(reason)
        sys.stdout.flush()
        sys.exit(1)


def skip(reason):
    """Ends the case where this machine lacks what it needs."""
    print(f"skipped: {reason}")
    sys.exit(0)


def expect(condition, otherwise):
    if not condition:
        raise Unexpected(otherwise)


def expect_equal(found, wanted, what):
    expect(found == wanted, f"{what} is {found!r} instead of {wanted!r}")


def wait_until(condition, what, seconds=DEADLINE):
    """Asks again and again: systemd offers no event for most of what a case waits for. The more rarely the longer it has
    waited: each question takes time from those that are to get there."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        expect(waited < seconds, f"{what}: not within {seconds} s")
        select.select([], [], [], min(max(0.02, waited / 16), 0.25))


# Units


def output(*command, stderr=subprocess.STDOUT):
    """What a command prints, whatever its exit status."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=DEADLINE)
    return done.stdout.strip()


def example(line, change=("", "")):
    """Runs a line of the manuals' examples, in which one text is replaced; manual_examples.rs knows the pages."""
    return output("bash", "-euo", "pipefail", "-c", line.replace(*change))


def systemctl(*arguments):
    return output("systemctl", "--no-pager", *arguments)


def start(unit):
    said = systemctl("start", unit)
    expect_equal(said, "", f"what systemctl start {unit} says")


def show(unit, name):
    return systemctl("show", f"--property={name}", "--value", unit)


def main_pid(unit):
    return int(show(unit, "MainPID"))


def listed():
    """What the bridges say of themselves now; the status of their units may be a second old."""
    bridges = json.loads(output("vsockctl", "list", "--json", stderr=subprocess.DEVNULL))
    return {bridge["bridge"]: bridge for bridge in bridges}


def all_are_over(bridge):
    """Waits until all connections of a bridge are closed."""
    wait_until(lambda: listed().get(bridge, {}).get("connections") == [], f"{bridge} has no connection")


def wait_for_state(unit, state, seconds=DEADLINE):
    wait_until(lambda: show(unit, "ActiveState") == state, f"{unit} {state}", seconds)


def expect_state(unit, state):
    expect_equal(show(unit, "ActiveState"), state, f"the state of {unit}")


def drop_in(unit, text):
    """Configures a unit as an administrator would."""
    path = pathlib.Path(f"/etc/systemd/system/{unit}.d/50-case.conf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    systemctl("daemon-reload")


def write_unit(unit, text):
    pathlib.Path(f"/etc/systemd/system/{unit}").write_text(text)
    systemctl("daemon-reload")


def configure(instance, **settings):
    """Writes the environment file of an instance, such as vsock-bridge@445."""
    path = pathlib.Path(f"/etc/vsock-bridge/{instance}.conf")
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"VSOCK_BRIDGE_{name}={value}\n" for name, value in settings.items()))


def listen_on(socket_unit, address):
    """Gives a shipped socket unit an address that this machine has: there is no vsock in the cases."""
    drop_in(socket_unit, f"[Socket]\nListenStream=\nListenStream={address}\n")


def prefix_start():
    """The prefix of this machine without its two colons."""
    return output("vsockctl", "prefix", "show", stderr=subprocess.DEVNULL).removesuffix("::/64")


def own_address(prefix):
    """Of this machine, while the route of the prefix is there."""
    route = output("ip", "-6", "route", "show", "table", "local", "root", f"{prefix}::/64").split()
    return route[route.index("src") + 1]


def journal(program):
    """What the program said so far, line by line.

    Not by unit: the journal learns that from the process, which may be gone before it is asked about.
    """
    return journal_lines(f"--identifier={program}")


def journal_lines(*matches):
    """The lines that match, with everything that was said before this call."""
    subprocess.run(["journalctl", "--sync"], check=True, timeout=DEADLINE)
    return output("journalctl", "--quiet", "--no-pager", "--output=cat", *matches).splitlines()


# The documentation


def recipe(page, label):
    """The indented lines of a page of docs/recipes below the line that ends with `label`."""
    text = pathlib.Path("/usr/share/doc/vsock-bridge/recipes", page).read_text()
    found = re.search(rf"^.*{re.escape(label)}\n\n((?:(?: {{4}}.*)?\n)+)", text, re.MULTILINE)
    expect(found, f"no lines below {label!r} in {page}")
    return re.sub("^    ", "", found[1], flags=re.MULTILINE)


# What `vsockctl check` says


# Lines of vsockctl check that were not OK, and those whose command was followed.
seen = []
followed = []
# Whether the machine that all share has vsock, and which kernel.
SHARED = {"device", "transport", "CID", "nested", "kernel"}


class Line:
    """One line of the table: level, subject, text, and the command that mends it."""

    def __init__(self, line):
        self.level, self.subject, text = re.fullmatch("(OK|WARN|FAIL) +(.+?)  +(.*)", line).groups()
        self.text, _, self.command = text.removesuffix("`").partition("; run `")

    def __repr__(self):
        return f"{self.level} {self.subject}: {self.text}; run `{self.command}`"


def faults():
    """The lines that are not OK, as far as this machine is asked and not the one below."""
    done = subprocess.run(["vsockctl", "check"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    lines = [Line(line) for line in done.stdout.splitlines()]
    failed = [line for line in lines if line.level == "FAIL"]
    expect_equal(done.returncode, 1 if failed else 0, f"the exit status with {failed}")
    seen.extend(line for line in lines if line.level != "OK")
    return [line for line in lines if line.level != "OK" and not is_shared(line)]


def is_shared(line):
    """What is told of the device of vsock is told of that of the machine below."""
    return line.subject in SHARED or "the device of this VM" in line.text


def expect_fault(level, subject, *words):
    """Exactly one line that is not OK, and this one; gives it."""
    found = faults()
    expect_equal([(line.level, line.subject) for line in found], [(level, subject)], f"what is wrong in {found}")
    for word in words:
        expect(word in found[0].text, f"{word!r} is not in {found[0]}")
    return found[0]


def mend(line):
    """Runs the command of the line; nothing is wrong then."""
    done = subprocess.run(line.command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE)
    expect_equal(done.returncode, 0, f"the status of {line.command}, which said {done.stdout!r},")
    expect_equal(faults(), [], f"what is wrong after {line.command}")
    followed.append(line)


def expect_all_findings():
    """Each line that the table has for this case was there, and check was content after its command."""
    heading = f"[case {pathlib.Path(sys.argv[0]).name}]"
    lines = (pathlib.Path(__file__).parent / "findings").read_text().splitlines()
    if heading not in lines:
        return
    start = lines.index(heading) + 1
    for text in lines[start : lines.index("", start) if "" in lines[start:] else None]:
        pattern = ".*".join(map(re.escape, re.split(r"\{[^}]*\}", text)))
        found = [line for line in seen if re.search(pattern, line.text)]
        expect(found, f"no line was {text!r} in this case")
        if any(line.command for line in found):
            expect(any(re.search(pattern, line.text) for line in followed), f"no command of {text!r} was followed")


# Sockets. An address is (host, port) for IPv6, or a path.


def connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6
    stream = socket.socket(family, socket.SOCK_STREAM)
    stream.settimeout(DEADLINE)
    stream.connect(address)
    return stream


def content(seed, length):
    """Bytes that tell their place, so that none can be lost or swapped unseen."""
    return random.Random(seed).randbytes(length)


def read_to_end(stream):
    parts = []
    while part := stream.recv(65536):
        parts.append(part)
    return b"".join(parts)


def exchange(stream, data):
    """Sends and receives at once, half-closes, and wants the echo of everything."""
    with stream:
        sender = threading.Thread(target=lambda: (stream.sendall(data), stream.shutdown(socket.SHUT_WR)), daemon=True)
        sender.start()
        returned = read_to_end(stream)
        sender.join(DEADLINE)
    expect_equal(
        (len(returned), hashlib.sha256(returned).hexdigest()),
        (len(data), hashlib.sha256(data).hexdigest()),
        "length and digest of the echo",
    )


def expect_reset(stream):
    with stream:
        try:
            data = stream.recv(1)
        except ConnectionResetError:
            return
    raise Unexpected(f"read {data!r} where a reset was due")


def expect_reset_of_new(address):
    """Connects over IPv6 and wants a reset, which may be there before connect() has returned; gives the own port."""
    stream = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    stream.settimeout(DEADLINE)
    stream.bind(("::", 0))
    port = stream.getsockname()[1]
    with contextlib.suppress(ConnectionResetError):
        stream.connect(address)
        expect_reset(stream)
    stream.close()
    return port


def pose(user, way, source, host, port):
    """What comes of it when a user goes one way of pose.py, from that source to that place."""
    command = ["python3", "/run/tests/pose.py", way, source, host, str(port)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, user=user, group=user)
    return done.stdout.strip()


class Target:
    """A server that echoes each connection and half-closes after the last byte. Remembers who came."""

    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address)
        if isinstance(address, str):
            pathlib.Path(address).chmod(0o666)
        self.listener.listen(4096)
        self.peers = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                stream, peer = self.listener.accept()
            except OSError:  # closed
                return
            self.peers.append(peer)
            threading.Thread(target=self.echo, args=(stream,), daemon=True).start()

    def echo(self, stream):
        # Reads while it cannot send, too. Where both directions are full, Linux before 7.1 may stand still for ever: a socket
        # that takes its window back, for lack of memory, drops the acknowledgements of what it sent, as out of the window.
        waiting, is_over = collections.deque(), False
        poll = select.poll()
        with contextlib.suppress(OSError), stream:
            while waiting or not is_over:
                poll.register(stream, (0 if is_over else select.POLLIN) | (select.POLLOUT if waiting else 0))
                events = poll.poll()[0][1]
                if not is_over and events & ~select.POLLOUT:
                    part = stream.recv(65536)
                    is_over = not part
                    if part:
                        waiting.append(part)
                if waiting and events & ~select.POLLIN:
                    part = waiting.popleft()
                    sent = stream.send(part, socket.MSG_DONTWAIT)
                    if sent < len(part):
                        waiting.appendleft(part[sent:])
            stream.shutdown(socket.SHUT_WR)

    def close(self):
        # Wakes accept(), which close alone would leave waiting.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Datagrams:
    """Remembers who sent some."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.peers = []
        threading.Thread(target=self.receive, daemon=True).start()

    def receive(self):
        while True:
            self.peers.append(self.socket.recvfrom(100)[1][0])


def echo_once(address, seed, length=100_000):
    """One client from start to end."""
    exchange(connect(address), content(seed, length))


class Bulk:
    """A connection to an echo that sends and receives all the time, with so many MiB on their way at most. One that reads
    so many bytes a second at most has all buffers full."""

    ON_THEIR_WAY = 32

    def __init__(self, address, seed, rate=math.inf):
        self.stream = connect(address)
        self.rate = rate
        self.data = content(seed, 1 << 20)
        self.sent = hashlib.sha256()
        self.got = hashlib.sha256()
        self.received = 0
        self.room = threading.Semaphore(self.ON_THEIR_WAY)
        self.is_over = False
        self.error = None
        self.threads = [threading.Thread(target=self.guard, args=(work,), daemon=True) for work in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def guard(self, work):
        # Of this thread alone: what is done to the bridge comes first.
        os.nice(19)
        try:
            work()
        except OSError as error:
            self.error = error
            self.is_over = True
            self.room.release()

    def send(self):
        while self.room.acquire() and not self.is_over:
            self.stream.sendall(self.data)
            self.sent.update(self.data)
        self.stream.shutdown(socket.SHUT_WR)

    def receive(self):
        while part := self.stream.recv(1 << 20):
            self.got.update(part)
            time.sleep(len(part) / self.rate)
            before = self.received
            self.received += len(part)
            for _ in range(before // len(self.data), self.received // len(self.data)):
                self.room.release()

    def finish(self):
        self.is_over = True
        # What is still on its way.
        self.rate = math.inf
        for thread in self.threads:
            thread.join(DEADLINE)
            # What has not come yet is not lost.
            expect(not thread.is_alive(), f"the end of a bulk connection: not within {DEADLINE} s")
        expect(self.error is None, f"a bulk connection was lost: {self.error}")
        expect_equal(self.got.hexdigest(), self.sent.hexdigest(), "digest of the echo")
