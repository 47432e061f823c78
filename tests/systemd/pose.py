"""One way to pass for another machine, tried by whoever runs it: prints the error, or what came of it.

    pose.py WAY SOURCE HOST PORT [COMMAND…]
"""
import contextlib
import errno
import socket
import struct
import subprocess
import sys

IPV6_FREEBIND, IPV6_TRANSPARENT, IPPROTO_MPTCP, IPPROTO_UDPLITE = 78, 75, 262, 136
MSG_FASTOPEN = 0x20000000
ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY = 128, 129


def bound(source, kind, protocol=0, port=0):
    one = socket.socket(socket.AF_INET6, kind, protocol)
    one.settimeout(10)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source:
        one.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        one.bind((source, port))
    return one


def tcp(source, host, port, protocol=0):
    bound(source, socket.SOCK_STREAM, protocol).connect((host, port))
    return "connected"


def mptcp(source, host, port):
    return tcp(source, host, port, IPPROTO_MPTCP)


def sctp(source, host, port):
    return tcp(source, host, port, socket.IPPROTO_SCTP)


def fast_open(source, host, port):
    stream = bound(source, socket.SOCK_STREAM)
    with contextlib.suppress(BlockingIOError):  # EINPROGRESS
        stream.sendto(b"first", MSG_FASTOPEN, (host, port))
    # The error of the connection comes with the first answer.
    return stream.recv(100).decode()


def udp(source, host, port, protocol=0):
    one = bound(source, socket.SOCK_DGRAM, protocol)
    one.sendto(b"datagram", (host, port))
    return "sent"


def udp_in_fragments(source, host, port):
    bound(source, socket.SOCK_DGRAM).sendto(bytes(65507), (host, port))
    return "sent"


def udp_connected(source, host, port):
    one = bound(source, socket.SOCK_DGRAM)
    one.connect((host, port))
    one.send(b"datagram")
    return "sent"


def udp_lite(source, host, port):
    return udp(source, host, port, IPPROTO_UDPLITE)


def udp_without_bind(source, host, port):
    """The source is that of one message (ipv6(7), IPV6_PKTINFO)."""
    one = bound("", socket.SOCK_DGRAM)
    one.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    info = socket.inet_pton(socket.AF_INET6, source) + struct.pack("i", 0)
    one.sendmsg([b"datagram"], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, (host, port))
    return "sent"


def ping(source, host, port, kind=socket.SOCK_DGRAM):
    one = bound(source, kind, socket.IPPROTO_ICMPV6)
    one.sendto(struct.pack("!BBHHH", ICMPV6_ECHO_REQUEST, 0, 0, 0, 1), (host, 0))
    while True:
        answer, peer = one.recvfrom(100)
        # A raw socket hears both.
        if answer[0] == ICMPV6_ECHO_REPLY:
            return f"answered by {peer[0]}"


def ping_raw(source, host, port):
    return ping(source, host, port, socket.SOCK_RAW)


def raw(source, host, port):
    bound(source, socket.SOCK_RAW, socket.IPPROTO_TCP).sendto(b"segment", (host, 0))
    return "sent"


def packet(source, host, port):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(socket.IPPROTO_IPV6)).bind(("lo", 0))
    return "bound"


def transparent(source, host, port):
    socket.socket(socket.AF_INET6).setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    return "set"


def in_namespaces(options, way, *arguments):
    """The same as root of a user namespace, or of a network of its own besides."""
    command = ["unshare", "--user", "--map-root-user", *options, sys.executable, __file__, way, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    return done.stdout.strip()


def user_namespace(*arguments):
    return in_namespaces([], "tcp", *arguments)


def user_namespace_udp(*arguments):
    return in_namespaces([], "udp", *arguments)


def user_namespace_raw(*arguments):
    return in_namespaces([], "raw", *arguments)


def user_namespace_transparent(*arguments):
    return in_namespaces([], "transparent", *arguments)


def other_network(*arguments):
    return in_namespaces(["--net"], "from_other_network", *arguments)


def from_other_network(source, host, port):
    """There it is root, and every address its own; what it sends goes nowhere."""
    prefix = source.partition("::")[0]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-6", "route", "add", "local", f"{prefix}::/64", "dev", "lo"], check=True)
    return tcp(source, host, port)


def listen(source, host, port, protocol=0):
    """Says who came, or that nobody came; `host` is not used."""
    listener = bound(source, socket.SOCK_STREAM, protocol, port)
    listener.listen()
    print("listening", flush=True)
    listener.settimeout(4)
    stream, peer = listener.accept()
    return f"connected to {peer[0]}"


def listen_mptcp(source, host, port):
    return listen(source, host, port, IPPROTO_MPTCP)


def listen_everywhere(source, host, port):
    return listen("::", host, port)


def listen_udp(source, host, port):
    one = bound(source, socket.SOCK_DGRAM, 0, port)
    print("listening", flush=True)
    one.settimeout(4)
    return f"told {one.recv(100).decode()!r}"


def main(way, source, host, port):
    try:
        print(globals()[way](source, host, int(port)))
    except TimeoutError:
        print("nobody")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))


main(*sys.argv[1:])
