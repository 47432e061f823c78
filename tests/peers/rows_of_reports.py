"""Rows about what was reported of programs of this kind: bytes that get lost, circles, queues, growth.

Each function is a row of the matrix, named by its documentation: the number in the table of tests/README.md, and what
must hold. It takes a relay that has just been started, and raises what it finds wrong.
"""

import os

from ends import *
from machine import *
from rows_of_life import in_the_middle, kill

LONG = "1h"  # for what must not come by itself


def urgent_in_bulk(relay, ends):
    """Both directions in turn: three MiB, an urgent byte, one more MiB, and an end or none."""
    before, behind = content(10, 3 * MIB), content(11, MIB)
    with Connection(relay) as (client, server):
        for sender, receiver in ((client, server), (server, client)):
            thread = threading.Thread(target=send_urgent, args=(sender, before, behind, ends), daemon=True)
            thread.start()
            found = receive(receiver, 4 * MIB)
            # The urgent byte is among the others or is not.
            if found != before + behind and len(found) == 4 * MIB:
                found = found[: 3 * MIB] + found[3 * MIB + 1 :] + receiver.recv(1)
            expect(found == before + behind, f"{len(found)} of {4 * MIB} bytes came")
            if ends:
                expect_equal(receiver.recv(1), b"", "what comes behind them")
            thread.join(LIMIT)


def send_urgent(stream, before, behind, ends):
    with contextlib.suppress(OSError):
        stream.sendall(before)
        stream.send(b"!", socket.MSG_OOB)
        stream.sendall(behind)
        if ends:
            stream.shutdown(socket.SHUT_WR)


def urgent_then_end(relay):
    """76 an urgent byte in bulk, then the end: every other byte, then the end"""
    urgent_in_bulk(relay, True)


def urgent_without_end(relay):
    """76 an urgent byte in bulk, and no end: every other byte"""
    urgent_in_bulk(relay, False)


@only_waits
@asks_for(keepalive=True)
def dead_with_bytes(relay):
    """69 a client vanishes with bytes on their way to it, keepalive is 1 s: the target is told within 25 s"""
    with Connection(relay) as (client, server):
        server.sendall(b"x")
        expect_equal(client.recv(1), b"x", "the byte before it vanishes")
        cut_off(client)
        server.sendall(b"x" * 220)
        server.settimeout(25)
        with contextlib.suppress(ConnectionResetError):
            server.recv(1)


def cut_off(client):
    """Nothing gets through to it or comes from it any more."""
    port = client.getsockname()[1]
    rules = f"""
        table inet cut{port} {{
            chain input {{
                type filter hook input priority filter; policy accept;
                tcp sport {port} drop
                tcp dport {port} drop
            }}
        }}
    """
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=DEADLINE)


def reset_standing(relay, listener, count):
    """So many clients send until their targets, which read nothing, are full, and are reset; gives the targets' ends."""
    pairs = []
    for _ in range(count):
        client = dial(relay)
        pairs.append((client, listener.accept()[0]))
    for client, _ in pairs:
        fill(client)
        reset(client)
    return [server for _, server in pairs]


def fill(stream):
    """Sends until nobody takes anything for a while."""
    stream.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while True:
            stream.send(bytes(1 << 16))


@only_waits
@asks_for(connections=3, connections_of_one=3)
def reset_frees_place(relay):
    """69 three clients, all that may come, are reset while their targets read nothing: the next one is served"""
    with listening(relay) as listener:
        servers = reset_standing(relay, listener, 3)
        wait_until(lambda: is_taken(relay, listener), "the next one", LIMIT)
        for server in servers:
            server.close()


def is_taken(relay, listener):
    """Whether a client comes through; one that is over a limit may be closed, or has to wait."""
    listener.settimeout(1)
    with contextlib.suppress(OSError), dial(relay) as client:
        client.sendall(b"!")
        with listener.accept()[0] as server:
            return server.recv(1) == b"!"
    return False


@only_waits
def reset_is_told(relay):
    """7 a client is reset while its target reads nothing: the target is reset, too"""
    with listening(relay) as listener:
        (server,) = reset_standing(relay, listener, 1)
        poll = select.poll()
        poll.register(server, 0)  # POLLERR and POLLHUP are told unasked
        expect(poll.poll(1000 * LIMIT), f"the target was told nothing for {LIMIT} s")
        server.settimeout(LIMIT)
        try:
            received = len(read_to_end(server))
        except ConnectionResetError:
            return
        raise Unexpected(f"a clean end after {received} bytes")


@only_waits
def reset_while_dialled(relay):
    """15 a client is reset while its target is dialled: the target is not troubled for it"""
    listener = socket.create_server(relay.target_address, family=socket.AF_INET6, backlog=0)
    with listener, connect(relay.target_address):
        gone = dial(relay)
        gone.sendall(b"of one that is gone")
        wait_until(lambda: is_dialled(relay), "the target is dialled", LIMIT)
        reset(gone)
        with dial(relay) as next_one:
            next_one.sendall(b"next")
            listener.settimeout(LIMIT)
            listener.accept()[0].close()
            # An attempt of the kernel comes after one, three and seven seconds.
            expect_equal(first_bytes(listener, 4), [b"next"], "what comes to the target")


def is_dialled(relay):
    host, port = relay.target_address
    return output("ss", "--tcp", "--numeric", "--no-header", "state", "syn-sent", "dst", f"[{host}]:{port}") != ""


def first_bytes(listener, seconds):
    """Of all that come until none has come for that long."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            with listener.accept()[0] as server:
                server.settimeout(LIMIT)
                with contextlib.suppress(ConnectionResetError):
                    found.append(server.recv(100))
            listener.settimeout(seconds)
    return found


@asks_for(target="in the range of the kernel")
def dial_meets_itself(relay):
    """14 nothing listens on the port that the dial goes out from: nobody hears themselves"""
    port = relay.target_address[1]
    with ports_of_the_kernel(port, port):
        for attempt in range(5):
            with contextlib.suppress(ConnectionResetError), dial(relay, port=20000 + 10 * relay.number + attempt) as client:
                client.sendall(b"x")
                expect_equal(client.recv(1), b"", "what comes back")


@contextlib.contextmanager
def ports_of_the_kernel(first, last):
    """The range that it takes ports from; of the machine's /proc/sys the cases see a copy that cannot be written."""
    folder = pathlib.Path("/run/own-proc")
    folder.mkdir(exist_ok=True)
    output("mount", "-t", "proc", "proc", folder)
    path = folder / "sys/net/ipv4/ip_local_port_range"
    usual = path.read_text()
    path.write_text(f"{first} {last}")
    try:
        yield
    finally:
        path.write_text(usual)
        output("umount", folder)


@asks_for(target="itself")
def target_is_itself(relay):
    """65 its target is its own listener: one client is not more than one connection"""
    before = opened()
    with contextlib.suppress(ConnectionResetError), dial(relay) as client:
        client.sendall(b"x")
        time.sleep(1)
    systemctl("kill", "--signal=KILL", relay.service)
    expect_equal(opened() - before, 1, "the number of connections after a second")


def opened():
    """How many connections this machine has taken so far."""
    lines = pathlib.Path("/proc/net/snmp").read_text().splitlines()
    names, numbers = [line.split() for line in lines if line.startswith("Tcp:")]
    return int(dict(zip(names, numbers))["PassiveOpens"])


@asks_for(target="unix", connections_of_one=300)
def short_queue(relay):
    """57 two hundred at once, the queue of the unix target has five places and moves each 5 ms: all are served"""
    path = pathlib.Path(relay.target_address)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(5)
        threading.Thread(target=serve_slowly, args=(listener,), daemon=True).start()
        clients = [dial(relay) for _ in range(200)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b"x")
        served = sum(is_answered(client) for client in clients)
        expect_equal(served, 200, "the number of those who were served")


def serve_slowly(listener):
    while True:
        server = listener.accept()[0]
        time.sleep(0.005)
        threading.Thread(target=answer_one, args=(server,), daemon=True).start()


def answer_one(server):
    with contextlib.suppress(OSError), server:
        server.sendall(server.recv(1))
        server.recv(1)


def is_answered(client):
    with contextlib.suppress(OSError), client:
        return client.recv(1) == b"x"
    return False


@asks_for(idle_timeout=3600)
def memory_is_bounded(relay):
    """71 fifteen thousand short connections within an idle timeout of an hour: not 20 bytes more memory for each"""
    with farewells(relay):
        come_and_go(relay, 3000, LIMIT)
        wait_until(lambda: relay.left()[1] == relay.processes, "no process of a connection", LIMIT)
        before = memory(relay)
        count = come_and_go(relay, 15000, 20)
        wait_until(lambda: relay.left()[1] == relay.processes, "no process of a connection", LIMIT)
        grown = memory(relay) - before
        expect(grown < 20 * count, f"{grown} bytes more after {count} connections")


@contextlib.contextmanager
def farewells(relay):
    """A target, in a process of its own, that says a byte and closes."""
    listener = listening(relay)
    child = os.fork()
    if not child:
        listener.settimeout(None)
        while True:
            with listener.accept()[0] as server:
                server.send(b".")
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def come_and_go(relay, count, seconds):
    """So many clients one after the other, or as many as come in that time; gives their number."""
    end = time.monotonic() + seconds
    for number in range(count):
        with socket.create_connection(relay.address, LIMIT) as client:
            expect_equal(read_to_end(client), b".", "what the target said")
        if time.monotonic() > end:
            return number + 1
    return count


def memory(relay):
    """Bytes of its own, of all its processes."""
    rollups = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in relay.pids()]
    return sum(1024 * int(re.search(r"^Anonymous: +(\d+)", rollup, re.MULTILINE)[1]) for rollup in rollups)


@asks_for(connections=200, connections_of_one=200, descriptors=1024)
def kill_at_low_limit(relay):
    """42 185 are open, 400 were replaced, 1024 descriptors may be open, kill -9: all go on"""
    with echoing(relay):
        streams = []
        for number in range(185 + 400):
            if number >= 185:
                leave(streams.pop(0))
            try:
                streams.append(dial(relay))
                expect_echo(streams[-1])
            except OSError as error:
                raise Unexpected(f"client {number + 1} was not served before the kill: {error}") from error
        kill(relay)
        ends = [end_of_one(stream) for stream in streams]
        counts = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
        expect_equal(counts, "185 go on", "what became of them")


def leave(stream):
    """Ends it from both sides, so that its place is free before the next one comes."""
    with stream:
        stream.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            read_to_end(stream)


def end_of_one(stream):
    try:
        stream.sendall(b"x")
        return "go on" if stream.recv(1) else "end cleanly"
    except OSError:
        return "are reset"


def kill_then_stop(relay):
    systemctl("kill", "--signal=KILL", relay.service)
    systemctl("stop", *relay.units, relay.service)


@asks_for(restart_after=LONG)
def kill_then_stop_in_the_middle(relay):
    """42 kill -9 and systemctl stop in the middle of a transfer: all of it or a reset, never a short clean end"""
    in_the_middle(relay, kill_then_stop)


@only_waits
def bad_setting(relay):
    """65 a setting is wrong and a client comes: at most ten attempts to start in ten seconds"""
    relay.configure(connections="4o96", connections_of_one="4o96")
    systemctl("restart", "--no-block", relay.service)
    begin = time.monotonic()
    with contextlib.suppress(OSError), dial(relay) as client:
        client.sendall(b"x")
        client.recv(1)
    wait_until(lambda: time.monotonic() - begin > 10, "ten seconds")
    ended = [line for line in journal_lines("_PID=1", f"UNIT={relay.service}") if "Main process exited, code=exited" in line]
    expect(ended, "it starts with that setting")
    expect(len(ended) <= 10, f"{len(ended)} attempts")


ALL = (
    urgent_then_end,
    urgent_without_end,
    dead_with_bytes,
    reset_frees_place,
    reset_is_told,
    reset_while_dialled,
    dial_meets_itself,
    target_is_itself,
    short_queue,
    memory_is_bounded,
    kill_at_low_limit,
    kill_then_stop_in_the_middle,
    bad_setting,
)
