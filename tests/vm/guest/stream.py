"""Bytes that differ at every place of a stream, for both of its ends."""

import hashlib

SEED = b"vsock-bridge"
BLOCK_BYTES = 1 << 16


def block(number):
    """One block of the stream: other bytes than any other block has, at every place."""
    return hashlib.shake_128(SEED + number.to_bytes(8, "big")).digest(BLOCK_BYTES)


class Stream:
    """Gives the stream in pieces of any size."""

    def __init__(self):
        self.number, self.current, self.position = 0, b"", 0

    def take(self, count):
        end = self.position + count
        if end > len(self.current):
            rest, pieces = self.current[self.position :], []
            missing = count - len(rest)
            while missing > 0:
                self.current = block(self.number)
                self.number += 1
                pieces.append(self.current[:missing])
                missing -= len(pieces[-1])
            self.position = len(pieces[-1])
            return rest + b"".join(pieces)
        piece = self.current[self.position : end]
        self.position = end
        return piece


class Check(Stream):
    """Compares what comes with what should."""

    count = 0

    def see(self, piece):
        assert piece == self.take(len(piece)), f"other bytes behind byte {self.count}"
        self.count += len(piece)
