"""What is outside of the machine of a case: another network namespace, behind a pair of devices."""
import os
import subprocess

from machine import DEADLINE, output, wait_until

ADDRESS = "192.0.2.10"
OWN = "192.0.2.1"


def make_outside(server, hosts):
    """Has Python run `server` at ADDRESS, which must answer HTTP on port 80 there; `hosts` is for /etc/hosts.

    Gives what runs a command there."""
    shell = lambda line: output("sh", "-euc", line)
    shell(f"ip link add veth0 type veth peer name veth1 && ip address add {OWN}/24 dev veth0 && ip link set veth0 up")
    process = subprocess.Popen(["unshare", "--net", "python3", "-c", "input()\n" + server], stdin=subprocess.PIPE)
    wait_until(lambda: namespace(process.pid) != namespace("self"), "a network of its own")
    shell(f"ip link set veth1 netns {process.pid}")
    inside = f"nsenter --net --target {process.pid}"
    shell(f"{inside} ip address add {ADDRESS}/24 dev veth1 && {inside} ip link set veth1 up")
    process.stdin.write(b"\n")
    process.stdin.close()
    with open("/etc/hosts", "a") as file:
        file.write(hosts)
    wait_until(lambda: subprocess.run(["curl", "--silent", f"http://{ADDRESS}/"], capture_output=True).returncode == 0, ADDRESS)
    return lambda line: shell(f"{inside} {line}")


def curl(url):
    """What comes through the proxy of this machine by HTTP CONNECT, and the status of that."""
    command = ["curl", "--silent", "--proxytunnel", "--proxy", "http://[::1]:1080", "--write-out", " %{http_connect}", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    body, status = done.stdout.rsplit(" ", 1)
    return body, status


def namespace(pid):
    return os.readlink(f"/proc/{pid}/ns/net")
