"""What the cases with a hostile peer share: a peer that floods one bridge while others use it.

The machine is small and shared, and a flooder takes processor time wherever its bytes go. So each round of the others is
measured twice: with the flooder at a second bridge, which loads the machine just as much, and with the flooder at
theirs. What differs is what the bridge lets one peer do to another. The medians of alternating rounds are compared, and
more rounds follow where they are too far apart, as they may be by chance.
"""

import os
import signal

from machine import *

CAP = 4  # connections of one peer
OTHERS = 4  # peers with one bulk connection each
ROUNDS = 10
LONGEST = 20  # seconds, after which what was measured holds
FACTOR = 2
NOISE = 0.01  # seconds that the scheduler of a busy machine adds to a round trip, or does not
FLOODER = "127.0.0.66"
NICE = 19  # of the flooder and of what serves it, which would have a machine of their own
ROUND_TRIPS = 200
BULK_BYTES = 8 << 20
KEPT_BYTES = 4 << 20  # of memory that a bridge may keep for its next bulk transfer
KEPT_PIPES = 64  # descriptors, for each thread
TARGET = ("127.0.0.1", 445)


class Bridge:
    """One instance with an IPv4 listener: 127.0.0.0/8 has an address for each peer."""

    def __init__(self, number):
        self.unit = f"vsock-bridge@{number}"
        self.address = ("127.0.0.1", 10000 + number)
        listen_on(f"{self.unit}.socket", f"127.0.0.1:{self.address[1]}")
        configure(self.unit, TO="127.0.0.1:445", MAX_CONNECTIONS_PER_PEER=CAP)
        start(f"{self.unit}.socket")

    def pid(self):
        return main_pid(f"{self.unit}.service")

    def descriptors(self, kind):
        found = []
        for link in pathlib.Path(f"/proc/{self.pid()}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.append(os.readlink(link))
        return [what for what in found if kind in what]

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.pid()}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def rest(self):
        all_are_over(self.unit)

    def expect_alive(self):
        expect_state(f"{self.unit}.socket", "active")
        expect_state(f"{self.unit}.service", "active")


def case(flood):
    """`flood(address, ready)` is the body of the flooder: it calls `ready` when it is at full strength, and goes on."""
    serve()
    theirs, another = Bridge(445), Bridge(446)
    for bridge in (theirs, another):
        measure(bridge)
        bridge.rest()
    process, sockets, resident = theirs.pid(), set(theirs.descriptors("socket:")), theirs.resident_bytes()
    expect_no_delay(flood, theirs, another)
    expect_named()
    for bridge in (theirs, another):
        bridge.expect_alive()
    expect_equal(theirs.pid(), process, "the process")
    theirs.rest()
    wait_until(lambda: is_as_before(set(theirs.descriptors("socket:")), sockets), "the sockets of before, and no others")
    threads = len(os.listdir(f"/proc/{process}/task"))
    pipes = len(theirs.descriptors("pipe:"))
    expect(pipes <= KEPT_PIPES * threads, f"{pipes} descriptors of pipes are kept by {threads} threads")
    grown = theirs.resident_bytes() - resident
    expect(grown <= KEPT_BYTES, f"memory has grown by {grown} bytes")


def is_as_before(sockets, before):
    """Only that of the question whether all are over may have been there, and be gone."""
    return sockets <= before and len(before - sockets) <= 1


def expect_no_delay(flood, theirs, another):
    calm, flooded = [], []
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and (len(flooded) < ROUNDS or max(slower(calm, flooded)) > FACTOR):
        for flooded_bridge, results in ((another, calm), (theirs, flooded)):
            with Flood(flood, flooded_bridge.address):
                results.append(measure(theirs))
    factors = slower(calm, flooded)
    figures = f"round trip/bulk in ms with the flooder elsewhere {show_all(calm)}; here {show_all(flooded)}"
    expect(max(factors) <= FACTOR, f"the others take {factors} times as long: {figures}")


def slower(calm, flooded):
    """By which factors round trips and bulk transfers take longer, beyond the noise."""
    pairs = zip(zip(*calm), zip(*flooded))
    return [max(0, median(after) - NOISE) / median(before) for before, after in pairs]


def median(values):
    return sorted(values)[len(values) // 2]


def show_all(rounds):
    return ", ".join("/".join(f"{1000 * value:.2f}" for value in values) for values in rounds)


def expect_named():
    lines = [line for line in journal("vsock-bridge") if "--max-connections-per-peer" in line]
    expect(lines, "the journal does not say that a limit was reached")
    strangers = [line for line in lines if f"{FLOODER}:" not in line]
    expect_equal(strangers, [], "lines that name somebody else")


def measure(bridge):
    """The 99th percentile of a round trip, and how long all bulk transfers of the others take, in seconds."""
    return round_trips(bridge), bulk(bridge)


def round_trips(bridge):
    with ask("127.0.0.10", b"e", bridge.address) as stream:
        times = []
        for _ in range(ROUND_TRIPS):
            begin = time.monotonic()
            stream.sendall(b"x" * 64)
            expect_equal(len(stream.recv(64, socket.MSG_WAITALL)), 64, "bytes of an answer")
            times.append(time.monotonic() - begin)
    return sorted(times)[ROUND_TRIPS * 99 // 100]


def bulk(bridge):
    begin = time.monotonic()
    senders = [fork(send_bulk, f"127.0.0.{20 + number}", bridge.address) for number in range(OTHERS)]
    for sender in senders:
        expect_equal(os.waitpid(sender, 0)[1], 0, "the status of a bulk transfer")
    return time.monotonic() - begin


def send_bulk(source, address):
    with ask(source, b"d", address) as stream:
        stream.sendall(bytes(BULK_BYTES))
        stream.shutdown(socket.SHUT_WR)
        expect_equal(int(read_to_end(stream)), BULK_BYTES, "the number of bytes that have arrived")


def flood(body, address, ready):
    os.nice(NICE)
    body(address, lambda: os.write(ready, b"r"))


class Flood:
    """Processes of the flooder, as many as it may have connections."""

    def __init__(self, body, address):
        self.ready, write_end = os.pipe()
        self.children = [fork(flood, body, address, write_end) for _ in range(CAP)]
        os.close(write_end)

    def __enter__(self):
        for _ in self.children:
            expect(select.select([self.ready], [], [], DEADLINE)[0], "the flooder does not get ready")
            expect_equal(os.read(self.ready, 1), b"r", "what the flooder says")

    def __exit__(self, *_):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(self.ready)


def hold(order, address):
    """Gives a connection of the flooder, who then has all that one peer may have."""
    stream = None
    while stream is None:
        stream = ask(FLOODER, order, address)
    # One more is refused once the other processes of the flooder have theirs.
    while more := ask(FLOODER, b"e", address):
        more.close()
    return stream


def ask(source, order, address):
    """Gives a connection on which the target has taken the order; none if it was refused."""
    stream = socket.socket()
    stream.settimeout(DEADLINE)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.bind((source, 0))
    # The reset of a refusal may come before connect() has returned.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        stream.connect(address)
        stream.sendall(order)
        if stream.recv(1) == b"k":
            return stream
    stream.close()
    return None


def fork(work, *arguments):
    """Runs a function in a process of its own: threads of one Python process would wait for each other."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work(*arguments)
        status = 0
    except OSError as error:
        print(f"{work.__name__}: {error}", flush=True)
    finally:
        os._exit(status)


def serve():
    """A target with a process for each connection, whose first byte says what to do with it."""
    listener = socket.create_server(TARGET, backlog=4096)
    fork(accept, listener)
    listener.close()


def accept(listener):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        stream, peer = listener.accept()
        fork(answer, stream, NICE if peer[0] == FLOODER else 0)
        stream.close()


def answer(stream, nice):
    os.nice(nice)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.settimeout(3 * DEADLINE)
    with contextlib.suppress(OSError):
        order = stream.recv(1)
        stream.sendall(b"k")
        if order == b"e":
            while part := stream.recv(65536):
                stream.sendall(part)
        elif order == b"d":
            count = 0
            while part := stream.recv(1 << 20):
                count += len(part)
            stream.sendall(str(count).encode())
        elif order == b"s":
            while True:
                stream.sendall(bytes(1 << 20))
