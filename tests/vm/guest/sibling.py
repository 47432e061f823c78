"""Run in another guest, CID 4: connects to bridges of the guest with CID 3 and tells what it hears at each port."""

import socket
import struct
import sys

for port in sys.argv[1:]:
    stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    # SO_VM_SOCKETS_CONNECT_TIMEOUT, include/uapi/linux/vm_sockets.h
    stream.setsockopt(socket.AF_VSOCK, 6, struct.pack("ll", 30, 0))
    stream.settimeout(60)
    try:
        stream.connect((3, int(port)))
        heard = b""
        while part := stream.recv(4096):
            heard += part
        print(f"sibling at {port}: {heard.decode().strip() or 'nothing'}", flush=True)
    except OSError as error:
        print(f"sibling at {port}: {error.strerror}", flush=True)
print("sibling: done", flush=True)
