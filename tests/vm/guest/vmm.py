"""The smallest VMs there are: processes that speak virtio-vsock with the kernel's own vhost_vsock, and run no guest.

To the kernel a Machine is a VM like any other: it has a CID, connects and is connected to, and may be killed. It owns
two queues (virtio 1.2, 2.7) in memory of its own and answers the packets of vsock (5.10.6).
"""

import ctypes
import fcntl
import mmap
import os
import struct

# include/uapi/linux/vhost.h, vhost_types.h
SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 0x4008AF00, 0xAF01, 0x4008AF03
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 0x4008AF10, 0x4028AF11, 0x4008AF12
SET_VRING_KICK, SET_VRING_CALL = 0x4008AF20, 0x4008AF21
SET_GUEST_CID, SET_RUNNING = 0x4008AF60, 0x4004AF61
VERSION_1 = 1 << 32

REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
HEADER = struct.Struct("<QQIIIHHIII")
HOST = 2
ENTRIES = 16
BUFFER_BYTES = 4096
PAGE = 4096
CREDIT_BYTES = 1 << 18


class Queue:
    """One split virtqueue; its buffers lie behind its rings."""

    def __init__(self, machine, index, offset, is_writable):
        self.memory, self.offset, self.is_writable = machine.memory, offset, is_writable
        self.available, self.used = offset + 16 * ENTRIES, offset + PAGE
        self.buffers = offset + 2 * PAGE
        self.seen = self.offered = 0
        self.kick, self.call = os.eventfd(0), os.eventfd(0)
        fcntl.ioctl(machine.device, SET_VRING_NUM, struct.pack("<II", index, ENTRIES))
        fcntl.ioctl(machine.device, SET_VRING_BASE, struct.pack("<II", index, 0))
        base = machine.address
        addresses = struct.pack("<IIQQQQ", index, 0, base + offset, base + self.used, base + self.available, 0)
        fcntl.ioctl(machine.device, SET_VRING_ADDR, addresses)
        fcntl.ioctl(machine.device, SET_VRING_KICK, struct.pack("<Ii", index, self.kick))
        fcntl.ioctl(machine.device, SET_VRING_CALL, struct.pack("<Ii", index, self.call))

    def offer(self, slot, length):
        """Gives a buffer to the device."""
        address = self.buffers + slot * BUFFER_BYTES
        flags = 2 if self.is_writable else 0
        struct.pack_into("<QIHH", self.memory, self.offset + 16 * slot, address, length, flags, 0)
        struct.pack_into("<H", self.memory, self.available + 4 + 2 * (self.offered % ENTRIES), slot)
        self.offered += 1
        struct.pack_into("<H", self.memory, self.available + 2, self.offered & 0xFFFF)

    def taken(self):
        """Waits for the device to be done with a buffer."""
        while struct.unpack_from("<H", self.memory, self.used + 2)[0] == self.seen & 0xFFFF:
            os.eventfd_read(self.call)
        slot, length = struct.unpack_from("<II", self.memory, self.used + 4 + 8 * (self.seen % ENTRIES))
        self.seen += 1
        return slot, length


class Machine:
    """A VM with this CID."""

    def __init__(self, cid):
        self.cid = cid
        self.device = os.open("/dev/vhost-vsock", os.O_RDWR)
        size = 2 * (2 + ENTRIES) * PAGE
        self.memory = mmap.mmap(-1, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(self.device, SET_OWNER)
        fcntl.ioctl(self.device, SET_FEATURES, struct.pack("<Q", VERSION_1))
        fcntl.ioctl(self.device, SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, size, self.address, 0))
        self.receive = Queue(self, 0, 0, True)
        self.transmit = Queue(self, 1, size // 2, False)
        for slot in range(ENTRIES):
            self.receive.offer(slot, BUFFER_BYTES)
        fcntl.ioctl(self.device, SET_GUEST_CID, struct.pack("<Q", cid))
        fcntl.ioctl(self.device, SET_RUNNING, struct.pack("<i", 1))
        os.eventfd_write(self.receive.kick, 1)

    def send(self, operation, port, host_port, payload=b"", flags=0):
        """Sends one packet and waits until the host has taken it."""
        header = HEADER.pack(self.cid, HOST, port, host_port, len(payload), 1, operation, flags, CREDIT_BYTES, 0)
        queue = self.transmit
        place = queue.buffers + (queue.offered % ENTRIES) * BUFFER_BYTES
        packet = header + payload
        self.memory[place : place + len(packet)] = packet
        queue.offer(queue.offered % ENTRIES, len(packet))
        os.eventfd_write(queue.kick, 1)
        queue.taken()

    def next(self):
        """Waits for a packet: its operation, our port, the host's, and its bytes."""
        slot, length = self.receive.taken()
        place = self.receive.buffers + slot * BUFFER_BYTES
        packet = bytes(self.memory[place : place + length])
        self.receive.offer(slot, BUFFER_BYTES)
        os.eventfd_write(self.receive.kick, 1)
        _, _, host_port, port, count, _, operation, _, _, _ = HEADER.unpack_from(packet)
        return operation, port, host_port, packet[HEADER.size : HEADER.size + count]

    def wait_for(self, wanted):
        """Waits for a packet of that kind."""
        while (packet := self.next())[0] != wanted:
            assert packet[0] in (CREDIT_UPDATE, CREDIT_REQUEST), packet
        return packet

    def accept(self, port):
        """Waits for a connection to a port; gives the host's port."""
        _, own, host_port, _ = self.wait_for(REQUEST)
        assert own == port, own
        self.send(RESPONSE, port, host_port)
        return host_port

    def connect(self, port, host_port):
        """Connects to a port of the host."""
        self.send(REQUEST, port, host_port)
        self.wait_for(RESPONSE)
