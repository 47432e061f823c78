"""Rows about bytes and ends of one connection.

Each function is a row of the matrix, named by its documentation: the number in the table of tests/README.md, and what
must hold. It takes a relay that has just been started, and raises what it finds wrong.
"""

from ends import *
from machine import *


def half_closed(one, other):
    one.sendall(b"x" * 100)
    one.shutdown(socket.SHUT_WR)
    expect_equal(len(read_to_end(other)), 100, "the number of bytes before the end")
    # Longer than programs wait that take the first end for the last.
    time.sleep(1.5)
    sending(other, content(1, MIB))
    expect_all(one, 1, MIB)


@only_waits
def client_half_closes(relay):
    """3 client half-closes, the answer comes a while later"""
    with Connection(relay) as (client, server):
        half_closed(client, server)


@only_waits
def target_half_closes(relay):
    """4 target half-closes, the client sends on a while later"""
    with Connection(relay) as (client, server):
        half_closed(server, client)


def both_half_close(relay):
    """5 both half-close at the same moment, a hundred times"""
    for _ in range(100):
        with Connection(relay) as (client, server):
            for stream in (client, server):
                stream.sendall(b"bye")
                stream.shutdown(socket.SHUT_WR)
            expect_equal((read_to_end(client), read_to_end(server)), (b"bye", b"bye"), "what came")


def unread_bytes(relay):
    """6 target closes with unread bytes: all of its answer, or a reset"""
    for _ in range(20):
        with Connection(relay) as (client, server):
            client.sendall(b"x" * 1000)
            expect_equal(len(server.recv(1)), 1, "the number of bytes read")
            server.sendall(content(2, 65536))
            server.close()
            all_or_reset(client, 2, 65536)


def client_resets(relay):
    """7 a reset of the client is a reset at the target"""
    with Connection(relay) as (client, server):
        client.sendall(b"x")
        expect_equal(server.recv(1), b"x", "the byte before the reset")
        reset(client)
        expect_reset(server)


def target_resets(relay):
    """8 a reset of the target is a reset at the client"""
    with Connection(relay) as (client, server):
        server.sendall(b"x")
        expect_equal(client.recv(1), b"x", "the byte before the reset")
        reset(server)
        expect_reset(client)


def target_is_down(relay):
    """14 target is down: the client is reset"""
    expect_reset_of_new(relay.address)


def target_comes_back(relay):
    """72 target was down and comes back: the next client is served"""
    with contextlib.suppress(OSError), dial(relay) as client:
        client.recv(1)
    with Connection(relay) as (client, server):
        client.sendall(b"x")
        expect_equal(server.recv(1), b"x", "the byte of the next client")


def request_in_two_writes(relay):
    """1 a request in two writes is answered without the 40 ms of a delayed acknowledgement"""
    times = []
    with Connection(relay) as (client, server):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(60):
            begin = time.monotonic()
            client.sendall(b"a")
            client.sendall(b"b")
            expect_equal(receive(server, 2), b"ab", "the request")
            server.sendall(b"!")
            expect_equal(client.recv(1), b"!", "the answer")
            times.append(time.monotonic() - begin)
    # The kernel acknowledges at once for the first few.
    middle = sorted(times[20:])[20]
    expect(middle < 0.02, f"half of them took more than {1000 * middle:.0f} ms")


@only_waits
def slow_reader(relay):
    """22 a reader with the smallest buffer gets every byte"""
    with Connection(relay) as (client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sending(server, content(3, MIB))
        expect_all(client, 3, MIB)


def full_direction(relay):
    """21 a direction that nobody reads leaves the other one open, and is complete later"""
    with Connection(relay) as (client, server):
        sending(client, content(4, 16 * MIB))
        sending(server, content(5, 4 * MIB))
        expect_all(client, 5, 4 * MIB)
        expect_all(server, 4, 16 * MIB)


def urgent_byte(relay):
    """76 bytes behind an urgent one arrive without further ones"""
    with Connection(relay) as (client, server):
        client.sendall(b"before")
        expect_equal(receive(server, 6), b"before", "the bytes before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"behind")
        found = receive(server, 6)
        # The urgent byte is among the others or is not.
        found += receive(server, found.count(b"!"))
        expect(found.endswith(b"behind"), f"{found!r} came")


ALL = (
    request_in_two_writes,
    client_half_closes,
    target_half_closes,
    both_half_close,
    unread_bytes,
    client_resets,
    target_resets,
    target_is_down,
    target_comes_back,
    full_direction,
    slow_reader,
    urgent_byte,
)
