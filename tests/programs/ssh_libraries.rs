//! Libraries of SSH that read the configuration of ssh(1), with the line of our drop-in as their ProxyCommand.

use std::io::{Read, Write};

use crate::common::place::{Kind, Place};
use crate::common::program::{Program, command, finish, ours};
use crate::common::skipped;

/// Debian's, for which the libraries are packaged.
const PYTHON: &str = "/usr/bin/python3";

/// Runs a client whose ProxyCommand is its first argument, and checks that both ends get each other's first line and
/// go on to the exchange of keys.
fn expect_exchange(needs: &str, script: &str) {
    let mut probe = command(PYTHON);
    probe.args(["-W", "ignore", "-c", needs]);
    if !std::path::Path::new(PYTHON).exists() || finish(probe).code != 0 {
        return skipped(&format!("not installed: {needs}"));
    }
    let place = Place::listening(Kind::Unix);
    let proxy = format!("{} --fdpass {}", ours("vsock-connect"), place.text);
    let mut client = command(PYTHON);
    client.args(["-W", "ignore", "-c", &format!("{needs}\n{script}"), &proxy]);
    let client = Program::start(client);
    let mut server = place.accept();
    server.write_all(b"SSH-2.0-server\r\n").unwrap();
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\n") {
        server.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    assert!(bytes.starts_with(b"SSH-2.0-"), "{}", bytes.escape_ascii());
    // Length, padding, SSH_MSG_KEXINIT (RFC 4253, section 7.1): the client has read the line of the server.
    let mut packet = [0; 6];
    server.read_exact(&mut packet).unwrap();
    assert_eq!(packet[5], 20, "{packet:?}");
    drop((server, client));
}

#[test]
fn paramiko_between_pipes() {
    expect_exchange(
        "import paramiko",
        "import sys\n\
         transport = paramiko.Transport(paramiko.ProxyCommand(sys.argv[1]))\n\
         transport.start_client(timeout=30)",
    );
}

#[test]
fn asyncssh_between_pipes_or_sockets() {
    expect_exchange(
        "import asyncssh",
        "import asyncio, sys\n\
         async def main():\n\
         \x20   await asyncssh.connect('vm', config=None, known_hosts=None, username='user', proxy_command=sys.argv[1].split())\n\
         asyncio.run(main())",
    );
}

#[test]
fn libssh_with_one_pair_of_sockets() {
    expect_exchange(
        "import ctypes; ssh = ctypes.CDLL('libssh.so.4')",
        "import sys\n\
         ssh.ssh_new.restype = ctypes.c_void_p\n\
         session = ctypes.c_void_p(ssh.ssh_new())\n\
         assert ssh.ssh_options_set(session, 0, b'vm') == 0\n\
         assert ssh.ssh_options_set(session, 19, sys.argv[1].encode()) == 0\n\
         ssh.ssh_connect(session)",
    );
}
