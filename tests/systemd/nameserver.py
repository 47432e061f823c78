"""What is outside of a machine that leaves names to others: a name server, and an HTTP server at every address there.

The name server gives each name the answers of a zone in turn, so that a name can lead elsewhere the next time. The HTTP server
answers with the address at which it was reached, and has every connection in a file, whatever comes of it.
"""
import collections
import http.server
import ipaddress
import socket
import struct
import threading

A, CNAME, AAAA = 1, 5, 28
REACHED = "/run/reached"


def serve(zone):
    """For each name a list of what it is in one answer after another, of which the last one stays: addresses, or one other
    name, or None, which is silence."""
    threading.Thread(target=answer_names, args=(zone,), daemon=True).start()
    Server(("::", 80), Reached).serve_forever()


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

    def get_request(self):
        stream, peer = super().get_request()
        with open(REACHED, "a") as file:
            print(at(stream), file=file)
        return stream, peer


class Reached(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(at(self.connection).encode())


def at(stream):
    address = ipaddress.ip_address(stream.getsockname()[0])
    return str(address.ipv4_mapped or address)


def answer_names(zone):
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("", 53))
    asked = collections.Counter()
    while True:
        query, peer = listener.recvfrom(512)
        name, end = read_name(query)
        [kind] = struct.unpack("!H", query[end : end + 2])
        answers = zone.get(name)
        records = []
        if answers:
            answer = answers[min(asked[name, kind], len(answers) - 1)]
            asked[name, kind] += 1
            if answer is None:
                continue
            records = records_of(zone, name, answer, kind)
        code = 0 if answers else 3
        header = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(records), 0, 0)
        listener.sendto(header + query[12 : end + 4] + b"".join(records), peer)


def read_name(query):
    labels, place = [], 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode())
        place += 1 + length
    return ".".join(labels).lower(), place + 1


def records_of(zone, name, answer, kind):
    if isinstance(answer, str):
        return [record(name, CNAME, written(answer)), *records_of(zone, answer, zone[answer][-1], kind)]
    addresses = map(ipaddress.ip_address, answer)
    return [record(name, kind, ip.packed) for ip in addresses if kind == (A if ip.version == 4 else AAAA)]


def record(name, kind, data):
    # Good for no time.
    return written(name) + struct.pack("!HHIH", kind, 1, 0, len(data)) + data


def written(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
