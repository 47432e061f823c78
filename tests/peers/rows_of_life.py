"""Rows about load, shortage, and the life of the relay itself.

Each function is a row of the matrix, named by its documentation: the number in the table of tests/README.md, and what
must hold. It takes a relay that has just been started, and raises what it finds wrong.
"""

import os

from ends import *
from machine import *

STRANGER = "fd00::66"  # an address of this machine that only the flooder has


def ninety_at_once(relay):
    """18 ninety clients at once: all are served"""
    with echoing(relay):
        clients = [dial(relay) for _ in range(90)]
        for client in clients:
            expect_echo(client)
        for client in clients:
            client.close()


def nothing_is_left(relay):
    """77 a thousand short connections leave no descriptor and no process"""
    with echoing(relay):
        with dial(relay) as client:
            expect_echo(client)
        wait_until(lambda: relay.left()[1] == relay.processes, "no process of a connection", LIMIT)
        before = relay.left()
        for _ in range(1000):
            with dial(relay) as client:
                expect_echo(client)
        wait_until(lambda: relay.left() <= before, f"no more than {before} descriptors and processes", LIMIT)


@contextlib.contextmanager
def flood(relay):
    """One peer opens more connections than the relay takes in all."""
    streams = []
    for _ in range(400):
        with contextlib.suppress(OSError):
            streams.append(dial(relay, STRANGER))
            streams[-1].sendall(b"x")
    try:
        yield
    finally:
        for stream in streams:
            stream.close()


def flooded(relay):
    """30 one peer opens more than the relay takes in all: another peer is served"""
    with echoing(relay), flood(relay), dial(relay) as client:
        expect_echo(client)


def flooder_is_named(relay):
    """31 one peer opens more than the relay takes in all: the journal says who"""
    with echoing(relay), flood(relay):
        wait_until(lambda: any(STRANGER in line for line in relay.journal()), "a line with the address", LIMIT)


def descriptors_run_out(relay):
    """25 descriptors run out: who comes waits and is served later, and no processor spins"""
    with echoing(relay):
        with dial(relay) as client:
            expect_echo(client)
        wait_until(lambda: relay.left()[1] == relay.processes, "no process of a connection", LIMIT)
        process = relay.worker()
        taken = {int(name) for name in os.listdir(f"/proc/{process}/fd")}
        lowest_free = min(set(range(len(taken) + 1)) - taken)
        limit = output("prlimit", f"--pid={process}", "--nofile", "--noheadings", "--raw", "--output=SOFT")
        output("prlimit", f"--pid={process}", f"--nofile={lowest_free}:")
        with dial(relay) as waiting:
            waiting.sendall(b"x")
            before = cpu_seconds(process)
            time.sleep(1)
            used = cpu_seconds(process) - before
            output("prlimit", f"--pid={process}", f"--nofile={limit}:")
            expect(used < 0.5, f"{100 * used:.0f} % of a processor while it waits")
            expect_equal(waiting.recv(1), b"x", "the echo")


def cpu_seconds(process):
    stat = pathlib.Path(f"/proc/{process}/stat")
    expect(stat.exists(), "the process has ended")
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def restart(relay):
    systemctl("restart", relay.service)


def kill(relay):
    """Kills the whole service, as the kernel does that is out of memory; waits for the next process."""
    process = relay.pid()
    systemctl("kill", "--signal=KILL", relay.service)
    wait_until(lambda: relay.pid() not in (0, process) or show(relay.service, "ActiveState") == "inactive", "another process")


def stays_open(relay, action):
    with echoing(relay), dial(relay) as client:
        expect_echo(client)
        action(relay)
        expect_echo(client, content(6, MIB // 16))


def restart_open(relay):
    """41 systemctl restart: an open connection goes on"""
    stays_open(relay, restart)


def kill_open(relay):
    """42 kill -9: an open connection goes on"""
    stays_open(relay, kill)


def comes_meanwhile(relay, action):
    over, errors, served = threading.Event(), [], []

    def come():
        while not over.is_set():
            try:
                client = dial(relay)
            except OSError as error:
                errors.append(error)
                continue
            # What becomes of it now that it is open has its own row.
            with contextlib.suppress(OSError, Unexpected), client:
                expect_echo(client)
                served.append(client)

    with echoing(relay):
        thread = threading.Thread(target=come, daemon=True)
        thread.start()
        wait_until(lambda: served, "the first client", LIMIT)
        for _ in range(3):
            action(relay)
        over.set()
        thread.join(LIMIT)
        expect(not errors, f"{len(errors)} were refused: {errors[:1]}")
        with dial(relay) as client:
            expect_echo(client)


def restart_meanwhile(relay):
    """41 systemctl restart: no client is refused meanwhile"""
    comes_meanwhile(relay, restart)


def kill_meanwhile(relay):
    """49 kill -9: no client is refused meanwhile"""
    comes_meanwhile(relay, kill)


def in_the_middle(relay, action):
    """The action in the middle of a transfer, of which the buffers hold a part only."""
    length = 32 * MIB
    with Connection(relay) as (client, server):
        sending(server, content(7, length))
        data = receive(client, MIB)
        process = relay.pid()
        thread = threading.Thread(target=action, args=(relay,), daemon=True)
        thread.start()
        # Not before, so that it cannot come too late.
        is_met = lambda: show(relay.service, "ActiveState") != "active" or relay.pid() != process
        wait_until(is_met, "the end of the service or its beginning")
        with contextlib.suppress(ConnectionResetError):
            data += read_to_end(client)
            expect(data == content(7, length), f"a clean end after {len(data)} of {length} bytes")
        thread.join(DEADLINE)


def stop(relay):
    systemctl("stop", *relay.units, relay.service)


def kill_in_the_middle(relay):
    """42 kill -9 in the middle of a transfer: all of it or a reset, never a short clean end"""
    in_the_middle(relay, kill)


def stop_in_the_middle(relay):
    """63 systemctl stop in the middle of a transfer: all of it or a reset, never a short clean end"""
    in_the_middle(relay, stop)


ALL = (
    ninety_at_once,
    flooded,
    flooder_is_named,
    descriptors_run_out,
    nothing_is_left,
    restart_open,
    restart_meanwhile,
    kill_open,
    kill_in_the_middle,
    kill_meanwhile,
    stop_in_the_middle,
)
