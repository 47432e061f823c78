//! Ports of other machines through a gateway: what it is asked, what its answers come to, and every byte behind them.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use socket2::Socket;
use tempfile::TempDir;

use crate::common::bridge::Bridge;
use crate::common::connect::{connect, passed, piped};
use crate::common::content::{Content, End, read_to_end};
use crate::common::own_etc::OwnEtc;
use crate::common::own_folder;
use crate::common::own_registry::Registry;
use crate::common::place::{Kind, Place, pair_of_sockets, ping};
use crate::common::program::{Program, ours};
use crate::common::vmm::taken;

const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const DENIED: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 37\r\n\r\nno rule of gateway.conf lets CID 3 in";

/// Takes a connection as the gateway; returns it once the port was asked for.
fn asked(gateway: &Place, authority: &str) -> Socket {
    let mut socket = gateway.accept();
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let mut bytes = vec![0; request.len()];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), request);
    socket
}

fn bridge(listener: &Place, gateway: &Place, more: &[&str]) -> Program {
    Bridge::to("vsock:4:5432")
        .listener(listener)
        .arguments(&["--via", &gateway.text])
        .arguments(more)
        .start()
}

#[test]
fn an_answer_and_bytes_behind_it_come_in_any_parts_each_end_has_all_that_is_its_own() {
    let content = Content::new(71);
    for kind in [Kind::Unix, Kind::Tcp6, Kind::Tcp4] {
        for first in [1, CONNECTED.len() - 1, CONNECTED.len(), usize::MAX] {
            let (listener, gateway) = (Place::listening(Kind::Tcp6), Place::listening(kind));
            let bridge = bridge(&listener, &gateway, &[]);
            let mut client = listener.connect();
            content.send(&mut client, 70_000);
            client.shutdown(Shutdown::Write).unwrap();
            let mut machine = asked(&gateway, "4.vsock:5432");
            let answer = [CONNECTED, &content.first(50_000)].concat();
            let (start, rest) = answer.split_at(first.min(answer.len()));
            machine.write_all(start).unwrap();
            // The bridge has nothing more to read until then.
            machine.write_all(rest).unwrap();
            content.expect_all(&mut machine, 70_000);
            drop(machine);
            content.expect_all(&mut client, 50_000);
            let log = bridge.stop();
            let line = format!(
                "to vsock:4:5432 (through {}) complete: 70000 bytes in, 50000 bytes out",
                gateway.text
            );
            assert!(log.iter().any(|entry| entry.contains(&line)), "{log:#?}");
        }
    }
}

#[test]
fn the_gateway_does_not_lead_there_the_peer_is_reset_and_the_log_has_its_reason() {
    for (answer, reason) in [
        (DENIED, "the gateway: no rule of gateway.conf lets CID 3 in"),
        (
            &b"HTTP/1.1 502 Bad Gateway\r\n\r\n"[..],
            "the gateway: 502 Bad Gateway",
        ),
        (b"", "it has closed without an answer"),
        (b"HTTP/1.1 20", "it has closed without an answer"),
        (
            b"SSH-2.0-OpenSSH\r\n",
            "is no gateway: it answered \"SSH-2.0",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>\r\n<title>400",
            "is no gateway: it answered 400 Bad Request; have VSOCK_BRIDGE_VIA, or --via, lead to \
             vsock-bridge-gateway.socket of the host",
        ),
    ] {
        let (listener, gateway) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
        let mut bridge = bridge(&listener, &gateway, &[]);
        let mut client = listener.connect();
        let mut machine = asked(&gateway, "4.vsock:5432");
        machine.write_all(answer).unwrap();
        drop(machine);
        assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
        let line = bridge.wait_for_line("closed: cannot connect to vsock:4:5432");
        assert!(line.contains(reason) && !line.contains('<'), "{line}");
    }
}

#[test]
fn a_machine_that_is_about_to_come_is_asked_for_again_and_one_that_no_rule_names_is_not() {
    let (listener, gateway) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = bridge(&listener, &gateway, &["--connect-retry", "1min"]);
    let mut client = listener.connect();
    for _ in 0..2 {
        let mut machine = asked(&gateway, "4.vsock:5432");
        machine.write_all(b"HTTP/1.1 504 Late\r\n\r\n").unwrap();
    }
    let mut machine = asked(&gateway, "4.vsock:5432");
    machine.write_all(CONNECTED).unwrap();
    ping(&mut client, &mut machine);
    let mut other = listener.connect();
    asked(&gateway, "4.vsock:5432").write_all(DENIED).unwrap();
    assert_eq!(read_to_end(&mut other), (vec![], End::Reset));
    bridge.wait_for_line("no rule of gateway.conf");
    assert!(gateway.has_nobody_waiting());
}

/// It has as much time for the machine by default, and says why that is silent: it is waited for a little longer.
#[test]
fn a_gateway_that_is_silent_or_not_there_is_named() {
    let (listener, gateway) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = bridge(&listener, &gateway, &["--connect-timeout", "200ms"]);
    let mut client = listener.connect();
    let _machine = asked(&gateway, "4.vsock:5432");
    assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
    let hint = "the gateway to other machines (VSOCK_BRIDGE_VIA; is vsock-bridge-gateway.socket enabled on the host?)";
    bridge.wait_for_line(
        "to vsock:4:5432 closed: cannot connect to vsock:4:5432 through the gateway: it was reached, and has not said within \
         400ms whether the machine answers",
    );
    fs::remove_file(&gateway.text).unwrap();
    assert_eq!(read_to_end(&mut listener.connect()), (vec![], End::Reset));
    let line = bridge.wait_for_line(&format!("cannot connect to {}", gateway.text));
    assert!(line.contains(hint), "{line}");
    assert!(line.contains("to vsock:4:5432 closed"), "{line}");
}

#[test]
fn the_gateway_is_one_of_the_listeners_the_bridge_does_not_start() {
    let listener = Place::listening(Kind::Unix);
    let bridge = Bridge::to("vsock:4:5432").listener(&listener);
    let finished = bridge.arguments(&["--via", &listener.text]).finish();
    assert_eq!(finished.code, 2);
    let stderr = finished.stderr.join(
        "
",
    );
    assert!(stderr.contains("leads back to"), "{stderr}");
}

#[test]
fn vsock_connect_relays_passes_and_says_why_not() {
    let gateway = Place::listening(Kind::Unix);
    let via = ["--via", &gateway.text];
    let program = piped(&[&["4", "22"], &via[..]].concat());
    let machine = {
        let mut machine = asked(&gateway, "4.vsock:22");
        machine
            .write_all(&[CONNECTED, b"SSH-2.0"].concat())
            .unwrap();
        machine
    };
    drop(machine);
    expect_output(program, b"SSH-2.0");

    let (own, theirs) = pair_of_sockets();
    let mut command = connect(&[&["--fdpass", "web", "22"], &via[..]].concat());
    command.stdout(OwnedFd::from(theirs));
    let mut program = Program::start(command);
    let mut machine = asked(&gateway, "web.vsock:22");
    machine
        .write_all(&[CONNECTED, b"SSH-2.0"].concat())
        .unwrap();
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    let mut stream = Socket::from(passed(&own));
    let mut bytes = [0; 7];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"SSH-2.0");
    ping(&mut stream, &mut machine);

    let mut program = piped(&[&["4", "22"], &via[..]].concat());
    asked(&gateway, "4.vsock:22").write_all(DENIED).unwrap();
    program.wait_for_line("through the gateway: no rule of gateway.conf lets CID 3 in");
    assert_eq!(program.exit_code(), 255);
}

fn expect_output(mut program: Program, bytes: &[u8]) {
    drop(program.stdin());
    let output = read_to_end(&mut program.stdout());
    assert_eq!(output, (bytes.to_vec(), End::Clean));
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
}

/// What the file of the machine says holds without an option, and what is wrong there is told with its line.
#[test]
fn the_file_of_the_machine_names_the_gateway() {
    let Some(etc) = OwnEtc::new() else {
        return;
    };
    let gateway = Place::listening(Kind::Unix);
    let file = "vsock-bridge/vsock-bridge.conf";
    etc.write(file, format!("VSOCK_BRIDGE_VIA={}\n", gateway.text));
    let start = |arguments: &[&str]| {
        let mut command = etc.command(ours("vsock-connect"));
        command.args(arguments).stdin(std::process::Stdio::null());
        Program::start(command)
    };
    let mut program = start(&["4", "22"]);
    asked(&gateway, "4.vsock:22").write_all(DENIED).unwrap();
    program.wait_for_line("no rule of gateway.conf");
    // Unknown here, and not asked for anywhere else.
    let mut program = start(&["web", "22", "--via", "none"]);
    program.wait_for_line("no machine is named \"web\"");
    assert_eq!(program.exit_code(), 2);
    etc.write(file, "# own\nVSOCK_BRIDGE_VIA=host\n");
    let mut program = start(&["4", "22"]);
    program.wait_for_line("/etc/vsock-bridge/vsock-bridge.conf:2: \"host\" is not a valid");
    assert_eq!(program.exit_code(), 255);
    assert!(gateway.has_nobody_waiting());
}

/// The gateway of a host, whose peers are the machine web, and to which db is behind hybrid vsock.
struct Host {
    gateway: Place,
    /// That of db.
    monitor: Place,
    rules: PathBuf,
    program: Program,
    _folders: (Registry, TempDir),
}

impl Host {
    /// None where nothing can be mounted.
    fn new(rules: &str) -> Option<Host> {
        let (registry, folder) = (Registry::new(), own_folder());
        let (gateway, monitor) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
        registry.write("a.conf", &format!("db={}\n", monitor.text));
        let path = folder.path().join("rules");
        fs::write(&path, format!("{rules}\n")).unwrap();
        let bridge = Bridge::to("gateway")
            .listener(&gateway)
            .arguments(&["--names", "web=3", "--machine", "web"])
            .arguments(&["--prefix", "fd00:1::/64"])
            .arguments(&["--rules", path.to_str().unwrap()]);
        Some(Host {
            gateway,
            monitor,
            rules: path,
            program: registry.given_to(bridge)?.start(),
            _folders: (registry, folder),
        })
    }
}

/// A guest that is played by a bridge reaches another one behind hybrid vsock, through the real gateway.
#[test]
fn the_gateway_leads_to_a_machine_by_its_name() {
    let Some(host) = Host::new("web db:5432\n") else {
        return;
    };
    let listener = Place::listening(Kind::Tcp6);
    let mut guest = Bridge::to("vsock:db:5432")
        .listener(&listener)
        .arguments(&["--via", &host.gateway.text])
        .start();
    let content = Content::new(72);
    let mut client = listener.connect();
    let mut machine = taken(&host.monitor, 5432);
    content.send(&mut machine, 100_000);
    machine.shutdown(Shutdown::Write).unwrap();
    content.expect_all(&mut client, 100_000);
    content.send(&mut client, 100_000);
    drop(client);
    content.expect_all(&mut machine, 100_000);
    // The host knows no CID of it, and no [P::4].
    let mut by_cid = host.gateway.connect();
    by_cid
        .write_all(b"CONNECT 4.vsock:5432 HTTP/1.1\r\n\r\n")
        .unwrap();
    let answer = String::from_utf8(read_to_end(&mut by_cid).0).unwrap();
    let line = "lets CID 3 reach vsock:4:5432; a machine behind hybrid vsock has no CID here: ask for its name, as in db.vsock\n";
    assert!(answer.ends_with(line), "{answer}");
    let through = &host.gateway.text;
    guest.wait_for_line(&format!("to vsock:db:5432 (through {through}) complete: "));
    fs::write(&host.rules, "web db:22\n").unwrap();
    assert_eq!(read_to_end(&mut listener.connect()), (vec![], End::Reset));
    let line = guest.wait_for_line("through the gateway: no rule of");
    assert!(line.contains("lets CID 3 reach vsock:db:5432"), "{line}");
}

/// The log of the host has the path of the socket, and the guest the reason.
#[test]
fn a_machine_without_its_monitor_is_told_without_the_path_of_its_socket() {
    let Some(mut host) = Host::new("web db:22\n") else {
        return;
    };
    fs::remove_file(&host.monitor.text).unwrap();
    let mut client = host.gateway.connect();
    client
        .write_all(b"CONNECT db.vsock:22 HTTP/1.1\r\n\r\n")
        .unwrap();
    let answer = String::from_utf8(read_to_end(&mut client).0).unwrap();
    let line = "cannot connect to vsock:db:22 (is its service, or the VM, running";
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains(line), "{answer}");
    assert!(!answer.contains(&host.monitor.text), "{answer}");
    let line = format!("cannot connect to vsock-mux:{}:22", host.monitor.text);
    host.program.wait_for_line(&line);
}

/// What the bridge of the machine would read: who comes, and to which port.
#[test]
fn a_machine_is_told_who_comes_where_the_rule_says_so() {
    let Some(host) = Host::new("web db:22\nweb db:5432 as-peer\n") else {
        return;
    };
    let client = |port: u16| {
        let mut client = host.gateway.connect();
        let request = format!("CONNECT db.vsock:{port} HTTP/1.1\r\n\r\nSELECT");
        client.write_all(request.as_bytes()).unwrap();
        client
    };
    let mut plain = client(22);
    let mut bytes = [0; 6];
    taken(&host.monitor, 22).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"SELECT");
    assert_eq!(read_to_end(&mut plain).0, CONNECTED);

    let told = client(5432);
    let mut machine = taken(&host.monitor, 1081);
    told.shutdown(Shutdown::Write).unwrap();
    let (bytes, end) = read_to_end(&mut machine);
    assert_eq!(end, End::Clean);
    let header = ppp::v2::Header::try_from(&bytes[..]).unwrap();
    assert!(bytes.ends_with(b"SELECT"), "{}", bytes.escape_ascii());
    assert_eq!(header.len() + b"SELECT".len(), bytes.len());
    let ppp::v2::Addresses::IPv6(found) = header.addresses else {
        panic!("{:?}", header.addresses)
    };
    assert_eq!(found.source_address.to_string(), "fd00:1::3");
    assert_eq!((found.source_port, found.destination_port), (0, 5432));
    let tlv = header.tlvs().next().unwrap().unwrap();
    assert_eq!((tlv.kind, &*tlv.value), (0xe5, &b"vsock:3:0"[..]));
}
