"""through.py PLACE PROGRESS OVER: asks the proxy of this machine for the echo at PLACE, and tells who that says has come.

Sends it the stream until the file OVER is there, and compares every byte of what comes back. PROGRESS has how many did.
"""

import os
import socket
import sys
import threading

sys.path.insert(0, __file__.rpartition("/")[0])
from stream import BLOCK_BYTES, Check, Stream

# On their way at most: below what the buffers of the way hold, so that nobody stands still behind somebody who sends.
AHEAD = 1 << 20
place, progress, over = sys.argv[1:]
check = Check()
is_ahead = threading.Condition()
sent = 0


def line(stream):
    found = b""
    while not found.endswith(b"\n"):
        part = stream.recv(1)
        assert part, f"an end behind {found!r}"
        found += part
    return found.decode().strip()


def send(stream):
    global sent
    bytes_out = Stream()
    while not os.path.exists(over):
        part = bytes_out.take(16384)
        with is_ahead:
            is_ahead.wait_for(lambda: sent - check.count < AHEAD)
            sent += len(part)
        stream.sendall(part)


def receive(stream, is_over):
    while not (is_over() and check.count == sent):
        stream.settimeout(180)
        part = stream.recv(BLOCK_BYTES)
        assert part, f"an end after {check.count} bytes of {sent}"
        check.see(part)
        with is_ahead:
            is_ahead.notify()
        with open(progress + ".new", "w") as file:
            print(check.count, file=file)
        os.rename(progress + ".new", progress)


stream = socket.create_connection(("::1", 1080), timeout=180)
stream.sendall(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
answer = line(stream)
assert " 200 " in answer, answer
assert line(stream) == ""
print("from", line(stream), flush=True)
sender = threading.Thread(target=send, args=(stream,))
sender.start()
receive(stream, lambda: not sender.is_alive())
assert check.count == sent
print(f"{sent} bytes came back as they were sent")
