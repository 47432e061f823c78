"""peers.py HOST PORT COMMAND…: holds connections while the command runs: one with bulk, one that asks and answers, idle ones."""

import os
import random
import socket
import subprocess
import sys
import threading

is_over = threading.Event()


def content(seed, size):
    return random.Random(seed).randbytes(size)


class Peer(threading.Thread):
    """Sends, and compares what comes back, until told to end; then half-closes and expects the end."""

    def __init__(self, number, size):
        super().__init__(daemon=True)
        self.size, self.number, self.error, self.rounds, self.before = size, number, None, 0, threading.Event()
        self.stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)

    def run(self):
        # Of this thread alone: the command comes first.
        os.nice(19)
        try:
            self.exchange()
            while self.number < 2 and not is_over.is_set():
                self.exchange()
            is_over.wait()
            self.exchange()
            self.stream.shutdown(socket.SHUT_WR)
            assert self.stream.recv(1) == b"", "more bytes than were sent"
        except (OSError, AssertionError) as error:
            self.error = error
        self.before.set()

    def exchange(self):
        sent = content(1000 * self.rounds + self.number, self.size)
        sender = threading.Thread(target=self.stream.sendall, args=(sent,))
        sender.start()
        got = b""
        while len(got) < self.size:
            part = self.stream.recv(self.size - len(got))
            assert part, f"the end after {len(got)} of {self.size} bytes of round {self.rounds}"
            got += part
        sender.join()
        assert got == sent, f"other bytes than were sent in round {self.rounds}"
        self.rounds += 1
        self.before.set()


peers = [Peer(number, 200_000 if number == 0 else 500) for number in range(20)]
for peer in peers:
    peer.start()
for peer in peers:
    assert peer.before.wait(60), "no answer before the command"
status = subprocess.run(sys.argv[3:]).returncode
is_over.set()
for peer in peers:
    peer.join(60)
lost = [f"{peer.number}: {peer.error or 'no end'}" for peer in peers if peer.error or peer.is_alive()]
assert not lost, f"{len(lost)} of {len(peers)} connections: {lost}"
assert status == 0, f"exit status {status} of {sys.argv[3:]}"
print(f"note: {len(peers)} connections, {sum(peer.rounds * peer.size for peer in peers)} bytes each way")
