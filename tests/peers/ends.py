"""What the rows share: a client and the target's end of its connection, with short deadlines."""

import struct

from machine import *

LIMIT = 10  # seconds, for what takes milliseconds
MIB = 1 << 20


class Connection:
    """A client and the connection of the target that belongs to it."""

    def __init__(self, relay):
        with listening(relay) as listener:
            self.client = dial(relay)
            self.server = listener.accept()[0]
        self.server.settimeout(LIMIT)

    def __enter__(self):
        return self.client, self.server

    def __exit__(self, *_):
        self.client.close()
        self.server.close()


def asks_for(**settings):
    """The relay is asked with these settings."""

    def mark(row):
        row.settings = settings
        return row

    return mark


def only_waits(row):
    """All relays can be asked at once: the row measures nothing that one takes from the other."""
    row.only_waits = True
    return row


def listening(relay):
    listener = socket.create_server(relay.target_address, family=socket.AF_INET6, backlog=4096)
    listener.settimeout(LIMIT)
    return listener


@contextlib.contextmanager
def echoing(relay):
    target = Target(relay.target_address)
    try:
        yield target
    finally:
        target.close()


def dial(relay, source="::", port=0):
    stream = socket.socket(socket.AF_INET6)
    stream.settimeout(LIMIT)
    stream.bind((source, port))
    try:
        stream.connect(relay.address)
    except OSError:
        # The exception may be kept, and with it what it knows.
        stream.close()
        raise
    return stream


def reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def receive(stream, length):
    """So many bytes, or fewer at the end: a stream with a deadline knows no MSG_WAITALL."""
    data = b""
    while len(data) < length and (part := stream.recv(length - len(data))):
        data += part
    return data


def expect_echo(stream, data=b"x"):
    stream.sendall(data)
    found = receive(stream, len(data))
    expect(found == data, f"{len(found)} of {len(data)} bytes came back")


def expect_all(stream, seed, length):
    data = read_to_end(stream)
    expect(data == content(seed, length), f"a clean end after {len(data)} of {length} bytes")


def all_or_reset(stream, seed, length):
    with contextlib.suppress(ConnectionResetError):
        expect_all(stream, seed, length)


def sending(stream, data):
    """Sends in the background, and as far as it goes."""

    def send():
        with contextlib.suppress(OSError):
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread
