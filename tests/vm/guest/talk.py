"""Servers and clients for guests that are stopped, started anew or killed.

talk.py server ADDRESS              sends each client the stream for ever; vsock:PORT, tcp:PORT of ::1, or the path of a socket
talk.py clients HOST PORT COUNT ACT  so many TCP clients; when each has some bytes, ACT is run; then their ends are told.
                                     Without an ACT they close.
talk.py kept HOST PORT COUNT ACT     the same, and each has to go on with its stream after ACT.
talk.py pause HOST PORT BYTES SECONDS MONITOR
                                     sends so much to an echo and compares what comes back; in the middle QEMU is told to
                                     stop the guest, and after that time to let it go on
"""

import collections
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, __file__.rpartition("/")[0])
from stream import BLOCK_BYTES, Check, Stream


def serve(stream):
    try:
        bytes_out = Stream()
        stream.sendall(bytes_out.take(16384))
        # Few enough for the buffers of every reader: vhost-device-vsock stops altogether behind some that do not read.
        while True:
            stream.sendall(bytes_out.take(256))
            time.sleep(0.5)
    except OSError:
        stream.close()


def listener_at(address):
    family, _, port = address.partition(":")
    if family == "tcp":
        return socket.create_server(("::1", int(port)), family=socket.AF_INET6, backlog=256)
    listener = socket.socket(socket.AF_VSOCK if family == "vsock" else socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, int(port)) if family == "vsock" else address)
    listener.listen(256)
    return listener


def server(address):
    listener = listener_at(address)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def ending(stream, check, deadline):
    """Reads to the end, whatever it is."""
    try:
        stream.settimeout(max(0.1, deadline - time.monotonic()))
        while part := stream.recv(BLOCK_BYTES):
            check.see(part)
        return "end"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "silence"


def connect(host, port):
    """Connects and reads the first bytes; vhost-device-vsock resets some connections at their beginning."""
    deadline = time.monotonic() + 60
    while True:
        check = Check()
        stream = socket.create_connection((host, port), timeout=60)
        try:
            check.see(stream.recv(1024))
        except ConnectionResetError:
            pass
        if check.count:
            return stream, check
        assert time.monotonic() < deadline, "no connection has a byte"
        stream.close()
        # Whoever is not up yet is not kept from it by those who wait for it.
        time.sleep(0.1)


def clients(host, port, count, act):
    streams = [connect(host, port) for _ in range(count)]
    if not act:
        print(f"{count} were served")
        return
    subprocess.run(["bash", "-euc", act], check=True)
    deadline = time.monotonic() + 60
    endings = [ending(*pair, deadline) for pair in streams]
    least = min(check.count for _, check in streams)
    print(dict(collections.Counter(endings)), f"after at least {least} bytes each")


def kept(host, port, count, act):
    streams = [connect(host, port) for _ in range(count)]
    subprocess.run(["bash", "-euc", act], check=True)
    # What has been waiting somewhere comes first; then there is more.
    time.sleep(5)
    for stream, check in streams:
        stream.setblocking(False)
        try:
            while part := stream.recv(BLOCK_BYTES):
                check.see(part)
        except BlockingIOError:
            stream.settimeout(60)
            part = stream.recv(BLOCK_BYTES)
            check.see(part)
        assert part, f"an end after {check.count} bytes"
    print(f"{count} went on")


def pause(host, port, total, seconds, monitor):
    stream = socket.create_connection((host, port), timeout=60)
    check, bytes_out = Check(), Stream()

    def send():
        for _ in range(total // 50_000):
            stream.sendall(bytes_out.take(50_000))

    def receive(until):
        while check.count < until:
            part = stream.recv(BLOCK_BYTES)
            assert part, f"an end after {check.count} bytes"
            check.see(part)

    def tell(command):
        with open(monitor, "w") as file:
            print(command, file=file)

    stream.settimeout(seconds + 120)
    sending = threading.Thread(target=send)
    sending.start()
    receive(total // 4)
    tell("stop")
    receiving = threading.Thread(target=receive, args=(total,))
    receiving.start()
    time.sleep(seconds / 2)
    middle = check.count
    time.sleep(seconds / 2)
    assert middle == check.count < total, "the guest went on"
    tell("cont")
    receiving.join()
    sending.join()
    assert check.count == total, check.count
    print(f"stood still for {seconds / 2:.0f} s and more behind {middle} bytes of {total}")


if __name__ == "__main__":
    kind, address, *rest = sys.argv[1:]
    if kind == "server":
        server(address)
    elif kind == "pause":
        pause(address, int(rest[0]), int(rest[1]), float(rest[2]), rest[3])
    elif kind == "kept":
        kept(address, int(rest[0]), int(rest[1]), rest[2])
    else:
        clients(address, int(rest[0]), int(rest[1]), rest[2])
