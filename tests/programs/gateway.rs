//! The gateway: what a peer asks for is answered in its own words, and nothing is connected to that no rule names.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use socket2::Socket;
use tempfile::TempDir;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::own_etc::OwnEtc;
use crate::common::place::{Kind, Place, ping};
use crate::common::program::{Finished, Program, command, finish, ours, with_own_settings};
use crate::common::{own_folder, skipped};

const NAMES: &str = "web=3 db=4";
const CONNECTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// A gateway whose peers are the machine web, with rules that can be changed.
struct Gateway {
    listener: Place,
    program: Program,
    rules: PathBuf,
    _folder: TempDir,
}

impl Gateway {
    fn new(rules: &str) -> Gateway {
        Gateway::with(rules, &["--machine", "web"])
    }

    fn with(rules: &str, arguments: &[&str]) -> Gateway {
        Gateway::started(rules, |bridge| bridge.arguments(arguments))
    }

    fn started(rules: &str, set: impl FnOnce(Bridge) -> Bridge) -> Gateway {
        let folder = own_folder();
        let path = folder.path().join("rules");
        fs::write(&path, format!("{rules}\n")).unwrap();
        let listener = Place::listening(Kind::Unix);
        let bridge = Bridge::to("gateway").listener(&listener).arguments(&[
            "--names",
            NAMES,
            "--rules",
            path.to_str().unwrap(),
        ]);
        let program = set(bridge).start();
        Gateway {
            listener,
            program,
            rules: path,
            _folder: folder,
        }
    }

    /// Sends a request, and whatever is behind it.
    fn ask(&self, request: &[u8]) -> Socket {
        let mut peer = self.listener.connect();
        peer.write_all(request).unwrap();
        peer
    }

    /// Asks for what is refused; gives all of the answer.
    fn refused(&self, request: &[u8]) -> Vec<u8> {
        let (answer, end) = read_to_end(&mut self.ask(request));
        assert_eq!(end, End::Clean);
        answer
    }
}

fn connect(authority: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

fn socks(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    [
        &b"\x05\x01\x00\x05\x01\x00"[..],
        &[kind],
        address,
        &port.to_be_bytes(),
    ]
    .concat()
}

fn socks_name(name: &str, port: u16) -> Vec<u8> {
    let address = [&[name.len() as u8], name.as_bytes()].concat();
    socks(3, &address, port)
}

fn port(place: &Place) -> u16 {
    place.address.as_socket().unwrap().port()
}

fn expect(peer: &mut Socket, answer: &[u8]) {
    let mut found = vec![0; answer.len()];
    peer.read_exact(&mut found).unwrap();
    assert_eq!(found, answer, "{}", found.escape_ascii());
}

/// The answers of SOCKS5: that no authentication is needed, and that the target is reached.
const SOCKS_CONNECTED: &[u8] = b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0";

#[test]
fn a_request_and_bytes_behind_it_in_one_write_each_end_has_all_that_is_its_own() {
    let content = Content::new(61);
    let (ipv4, ipv6) = (Place::listening(Kind::Tcp4), Place::listening(Kind::Tcp6));
    let gateway = Gateway::new(&format!("web {} host:{}\n", ipv4.text, port(&ipv6)));
    let (four, six) = (port(&ipv4), port(&ipv6));
    for (request, answer, target) in [
        (connect(&ipv4.text), CONNECTED.as_bytes(), &ipv4),
        (
            connect(&format!("host.vsock:{six}")),
            CONNECTED.as_bytes(),
            &ipv6,
        ),
        (socks(1, &[127, 0, 0, 1], four), SOCKS_CONNECTED, &ipv4),
        (socks_name("HOST.vsock", six), SOCKS_CONNECTED, &ipv6),
        (socks_name("::ffff:127.0.0.1", four), SOCKS_CONNECTED, &ipv4),
    ] {
        let mut peer = gateway.ask(&[&request[..], &content.first(70_000)].concat());
        let mut server = target.accept();
        expect(&mut peer, answer);
        peer.shutdown(Shutdown::Write).unwrap();
        content.expect_all(&mut server, 70_000);
        content.send(&mut server, 50_000);
        drop(server);
        content.expect_all(&mut peer, 50_000);
    }
    let log = gateway.program.stop();
    let complete = log
        .iter()
        .filter(|line| line.contains("complete: 70000 bytes in, 50000 bytes out"));
    assert_eq!(complete.count(), 5, "{log:#?}");
    let place = format!(
        "to {0} ({0}, {1}:1) complete",
        ipv4.text,
        gateway.rules.display()
    );
    assert!(log.iter().any(|line| line.contains(&place)), "{log:#?}");
}

/// Nobody is left to be answered, and all that was sent is the target's. The gateway stands still until the peer has closed: one
/// that closes with the answer unread aborts instead.
#[test]
fn a_peer_that_has_sent_all_and_closed_is_served() {
    let target = Place::listening(Kind::Tcp4);
    let gateway = Gateway::new(&format!("web {}\n", target.text));
    let content = Content::new(62).first(1000);
    for request in [
        connect(&target.text),
        socks(1, &[127, 0, 0, 1], port(&target)),
    ] {
        gateway.program.signal(Signal::SIGSTOP);
        drop(gateway.ask(&[&request[..], &content].concat()));
        gateway.program.signal(Signal::SIGCONT);
        let (found, end) = read_to_end(&mut target.accept());
        assert_eq!((found, end), (content.to_vec(), End::Clean));
    }
}

/// With as many places for a machine as [`occupy`] takes, and no time limit.
const FEW_PLACES: [&str; 9] = [
    "--machine",
    "web",
    "-v",
    "--max-connections-per-peer",
    "3",
    "--connect-timeout",
    "1h",
    "--connect-retry",
    "1h",
];

/// Takes all places of the machine.
fn occupy(gateway: &mut Gateway, request: &[u8]) -> Vec<Socket> {
    let peers = (0..3).map(|_| gateway.ask(request)).collect();
    (0..3).for_each(|_| drop(gateway.program.wait_for_line(" accepted")));
    peers
}

/// Lets peers go that have sent no more than a request, and waits until their places are free.
fn leave(gateway: &mut Gateway, peers: Vec<Socket>) {
    drop(peers);
    for _ in 0..3 {
        let line = gateway.program.wait_for_line("aborted by the peer");
        assert!(line.contains(": 0 bytes in, 0 bytes out"), "{line}");
    }
}

#[test]
fn peers_have_gone_while_their_target_is_down_their_places_are_free() {
    let target = Place::bound(Kind::Tcp4);
    let mut gateway = Gateway::with(&format!("web {}\n", target.text), &FEW_PLACES);
    let request = connect(&target.text);
    let peers = occupy(&mut gateway, &request);
    leave(&mut gateway, peers);
    let half_closed = gateway.ask(&request);
    half_closed.shutdown(Shutdown::Write).unwrap();
    drop(gateway.ask(&[&request[..], b"early"].concat()));
    (0..2).for_each(|_| drop(gateway.program.wait_for_line(" accepted")));
    target.socket.listen(10).unwrap();
    let mut found: Vec<_> = (0..2)
        .map(|_| read_to_end(&mut target.accept()).0)
        .collect();
    found.sort();
    assert_eq!(found, [&b""[..], b"early"]);
    assert!(target.has_nobody_waiting());
}

/// The file in which names are looked up is a pipe, whose opening waits for somebody who writes.
#[test]
fn peers_have_gone_while_their_name_is_looked_up_their_places_are_free() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    etc.write("nsswitch.conf", "hosts: files\n");
    let (hosts, pipe) = (etc.path("hosts"), etc.path("pipe"));
    nix::unistd::mkfifo(&hosts, Mode::from_bits_truncate(0o644)).unwrap();
    let mut gateway = Gateway::started("web slow.example.net:80 127.0.0.1:*\n", |bridge| {
        bridge.arguments(&FEW_PLACES).wrapped(etc.wrapper())
    });
    let request = connect("slow.example.net:80");
    let peers = occupy(&mut gateway, &request);
    leave(&mut gateway, peers);
    let mut half_closed = gateway.ask(&request);
    half_closed.shutdown(Shutdown::Write).unwrap();
    let target = Place::listening(Kind::Tcp4);
    ping_through(&mut gateway.ask(&connect(&target.text)), &target);
    fs::rename(&hosts, &pipe).unwrap();
    etc.write("hosts", "127.0.0.9 slow.example.net\n");
    let mut writer = fs::File::options();
    writer.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    writer.open(&pipe).unwrap();
    let (answer, end) = read_to_end(&mut half_closed);
    assert_eq!(end, End::Clean);
    // No address of the file is outside, and the pipe has none.
    assert!(
        answer.starts_with(b"HTTP/1.1 "),
        "{}",
        answer.escape_ascii()
    );
}

#[test]
fn a_request_in_pieces_of_one_byte_is_the_same() {
    let target = Place::listening(Kind::Tcp4);
    let gateway = Gateway::new(&format!("web {}\n", target.text));
    for (request, answer) in [
        (connect(&target.text), CONNECTED.as_bytes()),
        (socks(1, &[127, 0, 0, 1], port(&target)), SOCKS_CONNECTED),
    ] {
        let mut peer = gateway.listener.connect();
        for byte in request {
            peer.write_all(&[byte]).unwrap();
        }
        let mut server = target.accept();
        expect(&mut peer, answer);
        ping(&mut peer, &mut server);
    }
}

#[test]
fn no_rule_names_it_the_answer_says_so_and_nothing_is_connected_to() {
    let target = Place::listening(Kind::Tcp4);
    let mut gateway = Gateway::new("db 127.0.0.1:*\nweb db:5432\n");
    let answer = String::from_utf8(gateway.refused(&connect(&target.text))).unwrap();
    let line = format!(
        "no rule of {} lets CID 3 reach {}",
        gateway.rules.display(),
        target.text
    );
    assert!(
        answer.starts_with("HTTP/1.1 403 Forbidden\r\n")
            && answer.ends_with(&format!("\r\n\r\n{line}\n")),
        "{answer}"
    );
    gateway.program.wait_for_line(&format!("refused: {line}"));
    let answer = gateway.refused(&socks(1, &[127, 0, 0, 1], port(&target)));
    assert_eq!(answer[..4], [5, 0, 5, 2]);
    for host in ["nobody.vsock", "local.vsock", "example.net"] {
        assert_eq!(
            gateway.refused(&socks_name(host, 5432))[2..4],
            [5, 2],
            "{host}"
        );
    }
    assert!(target.has_nobody_waiting());
}

#[test]
fn a_name_leads_inside_only_where_a_rule_names_the_address() {
    let target = Place::listening(Kind::Tcp4);
    let port = port(&target);
    let request = connect(&format!("localhost:{port}"));
    let mut gateway = Gateway::new(&format!("web localhost.:{port}\n"));
    let answer = String::from_utf8(gateway.refused(&request)).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 403 ")
            && answer.contains(", which is loopback, and no rule of "),
        "{answer}"
    );
    gateway.program.wait_for_line(&format!(
        "refused: localhost:{port}, asked for by CID 3, leads to "
    ));
    assert_eq!(
        gateway.refused(&socks_name("localhost", port))[2..4],
        [5, 2]
    );
    assert!(target.has_nobody_waiting());
    let rules = format!("web localhost.:{port}\nweb 127.0.0.1:{port} [::1]:{port}\n");
    fs::write(&gateway.rules, rules).unwrap();
    ping_through(&mut gateway.ask(&request), &target);
    let answer = gateway.refused(&connect(&format!(
        "localhost:{}",
        port.wrapping_add(1).max(1)
    )));
    assert!(answer.starts_with(b"HTTP/1.1 403 "));
}

#[test]
fn a_name_that_nobody_knows_has_its_answer() {
    // RFC 6761, section 6.4.
    let gateway = Gateway::new("web *.nobody.invalid:80\n");
    let answer = gateway.refused(&connect("a.nobody.invalid:80"));
    assert!(
        answer.starts_with(b"HTTP/1.1 50"),
        "{}",
        answer.escape_ascii()
    );
    assert_eq!(
        gateway.refused(&socks_name("a.nobody.invalid", 80))[2..4],
        [5, 4]
    );
}

#[test]
fn what_is_no_request_has_its_answer_and_nothing_is_connected_to() {
    let target = Place::listening(Kind::Tcp4);
    let gateway = Gateway::new("web *.example.net:* 127.0.0.0/8:*\n");
    let long = [
        &b"CONNECT a.example.net:1 HTTP/1.1\r\nx: "[..],
        &[b'y'; 9000],
    ]
    .concat();
    let name = "a".repeat(255);
    for (request, answer) in [
        (
            &b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n"[..],
            &b"HTTP/1.1 405 "[..],
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\0\x01\0", b"HTTP/1.1 400 "),
        (b"\0\0\0\0", b"HTTP/1.1 400 "),
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 "),
        (&connect("127.0.0.1:70000"), b"HTTP/1.1 400 "),
        (&connect("127.0.0.1:0"), b"HTTP/1.1 400 "),
        (&connect("0x7f.1:80"), b"HTTP/1.1 400 "),
        (&connect("[fe80::1%eth0]:80"), b"HTTP/1.1 400 "),
        (&long, b"HTTP/1.1 400 "),
        (b"\x04\x01\x00\x50\x7f\0\0\x01x\0", b"\x00\x5b"),
        (b"\x05\x01\x02", b"\x05\xff"),
        (
            b"\x05\x01\x00\x05\x02\x00\x01\x7f\0\0\x01\0\x50",
            b"\x05\x00\x05\x07",
        ),
        (
            b"\x05\x01\x00\x05\x01\x00\x09\x7f\0\0\x01\0\x50",
            b"\x05\x00\x05\x08",
        ),
        (&socks(1, &[127, 0, 0, 1], 0), b"\x05\x00\x05\x01"),
        (&socks_name(&name, 80), b"\x05\x00\x05\x01"),
        (&socks_name("a\0.example.net", 80), b"\x05\x00\x05\x01"),
    ] {
        let found = gateway.refused(request);
        let (request, told) = (request.escape_ascii(), found.escape_ascii());
        assert!(found.starts_with(answer), "{request}: {told}");
    }
    // What is cut off has an answer as well, where it can be understood.
    for (request, answer) in [
        (
            &b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n"[..],
            &b"HTTP/1.1 400 "[..],
        ),
        (b"\x05\x01\x00\x05\x01", b"\x05\x00"),
        (b"", b""),
    ] {
        let mut peer = gateway.ask(request);
        peer.shutdown(Shutdown::Write).unwrap();
        let (found, _) = read_to_end(&mut peer);
        assert!(found.starts_with(answer), "{}", found.escape_ascii());
    }
    assert!(target.has_nobody_waiting());
    let log = gateway.program.stop();
    assert!(
        !log.iter().any(|line| line.contains("panicked")),
        "{log:#?}"
    );
    // Also of whom has not asked for anything the machine is told.
    let closed: Vec<&String> = log.iter().filter(|line| line.contains("closed")).collect();
    assert!(!closed.is_empty(), "{log:#?}");
    assert!(
        closed.iter().all(|line| line.contains("vsock:3")),
        "{closed:#?}"
    );
}

#[test]
fn a_target_that_is_down_has_its_answer() {
    let target = Place::bound(Kind::Tcp4);
    let mut gateway = Gateway::new(&format!("web {}\n", target.text));
    let answer = String::from_utf8(gateway.refused(&connect(&target.text))).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("nothing listens there"),
        "{answer}"
    );
    let answer = gateway.refused(&socks(1, &[127, 0, 0, 1], port(&target)));
    assert_eq!(answer[2..4], [5, 5]);
    gateway.program.wait_for_line(&format!(
        "to {} ({}:1) closed:",
        target.text,
        gateway.rules.display()
    ));
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for_longer_than_five_seconds() {
    let gateway = Gateway::new("web 127.0.0.1:*\n");
    let begun: [(&[u8], &[u8]); 3] = [
        (b"", b""),
        (b"\x05\x01\x00\x05\x01\x00\x01", b"\x05\x00"),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n", b"HTTP/1.1 400 "),
    ];
    let peers = begun.map(|(request, answer)| (gateway.ask(request), answer));
    for (mut peer, answer) in peers {
        let (found, _) = read_to_end(&mut peer);
        assert!(found.starts_with(answer), "{}", found.escape_ascii());
    }
    let log = gateway.program.stop();
    let late = log
        .iter()
        .filter(|line| line.contains("bad request: it was not complete within 5s"));
    assert_eq!(late.count(), 3, "{log:#?}");
}

#[test]
fn rules_that_change_hold_at_once_and_those_with_an_error_change_nothing() {
    let target = Place::listening(Kind::Tcp4);
    let mut gateway = Gateway::new("# nobody yet\n");
    gateway.program.wait_for_line("nobody gets anywhere");
    let request = connect(&target.text);
    assert!(gateway.refused(&request).starts_with(b"HTTP/1.1 403 "));
    fs::write(&gateway.rules, format!("web {}\n", target.text)).unwrap();
    let mut peer = gateway.ask(&request);
    ping_through(&mut peer, &target);
    gateway.program.wait_for_line("1 rule of");
    fs::write(&gateway.rules, format!("web {}\nweb db\n", target.text)).unwrap();
    ping_through(&mut gateway.ask(&request), &target);
    let line = gateway
        .program
        .wait_for_line("the rules that held before still hold, 1 rule");
    assert!(
        line.contains("rules:2: \"db\" is not a valid destination"),
        "{line}"
    );
    // Who is connected stays so.
    fs::write(&gateway.rules, "# nobody\n").unwrap();
    assert!(gateway.refused(&request).starts_with(b"HTTP/1.1 403 "));
    peer.write_all(b"x").unwrap();
}

fn ping_through(peer: &mut Socket, target: &Place) {
    let mut server = target.accept();
    expect(peer, CONNECTED.as_bytes());
    ping(peer, &mut server);
}

#[test]
fn who_is_no_machine_gets_nowhere() {
    let target = Place::listening(Kind::Tcp4);
    let rules = format!("any,local {}\n", target.text);
    let mut gateway = Gateway::with(&rules, &[]);
    gateway
        .program
        .wait_for_line("gets nowhere, since no machine is known there");
    let answer = gateway.refused(&connect(&target.text));
    assert!(answer.starts_with(b"HTTP/1.1 403 "));
    assert!(target.has_nobody_waiting());
}

/// Runs `vsockctl rules --gateway`; gives its exit status, and what it says on either stream.
fn explained(rules: &str, more: &[&str]) -> (i32, String) {
    let folder = own_folder();
    let path = folder.path().join("rules");
    fs::write(&path, format!("{rules}\n")).unwrap();
    let path = path.to_str().unwrap();
    let mut ctl = command(ours("vsockctl"));
    ctl.args(["--names", NAMES, "rules", "--gateway", "--rules", path]);
    with_own_settings(ctl.args(more));
    let Finished {
        code,
        stdout,
        stderr,
    } = finish(ctl);
    (code, (stdout + &stderr.join("\n")).replace(path, "rules"))
}

#[test]
fn vsockctl_tells_which_rule_lets_a_machine_go_somewhere() {
    let rules =
        "# all\nweb   db:5432 10.0.0.0/8:*  # comment\nany *.example.net:443 db:1\n5 host:53\n";
    let lines = [
        "rules:2: web db:5432 10.0.0.0/8:*\n",
        "rules:3: any *.example.net:443 db:1\n",
        "rules:4: 5 host:53\n",
    ];
    for (more, found) in [
        (&[][..], lines.concat()),
        (&["--who", "web"], lines[..2].concat()),
        (&["--who", "5"], lines[1..].concat()),
        (&["--to", "host:53"], lines[2].to_owned()),
        (&["--who", "web", "--to", "db:5432"], lines[0].to_owned()),
        (&["--who", "3", "--to", "4.vsock:1"], lines[1].to_owned()),
        (
            &["--who", "web", "--to", "10.1.2.3:22"],
            lines[0].to_owned(),
        ),
        (
            &["--who", "9", "--to", "a.example.net:443"],
            lines[1].to_owned(),
        ),
    ] {
        assert_eq!(explained(rules, more), (0, found), "{more:?}");
    }
    for (more, status, words) in [
        (
            &["--who", "9", "--to", "db:5432"][..],
            1,
            "no rule of rules lets CID 9 reach vsock:4:5432",
        ),
        (
            &["--who", "local"],
            1,
            "no rule of rules lets this machine itself reach anything",
        ),
        (&["--to", "db"], 2, "the port is missing"),
        (&["--to", "nobody:1"], 2, "no machine is named \"nobody\""),
        (
            &["--to", "db:x"],
            2,
            "\"db:x\" is not a valid destination: the port",
        ),
        (
            &["--to", "d b:1"],
            2,
            "\"d b:1\" is not a valid destination",
        ),
        (&["--to", "db -> web"], 2, "\"db -> web\" is not a valid"),
        (&["--load"], 2, "cannot be used with"),
    ] {
        let (code, said) = explained(rules, more);
        assert!(code == status && said.contains(words), "{more:?}: {said}");
    }
    let (code, said) = explained("web db\n", &[]);
    assert!(
        code == 2 && said.contains("rules:1: \"db\" is not a valid destination"),
        "{said}"
    );
}

#[test]
fn rules_with_an_error_are_a_start_that_fails_with_their_lines() {
    let folder = own_folder();
    let path = folder.path().join("rules");
    fs::write(&path, "web db:1\nwe;b db:1\nweb example.net\n").unwrap();
    let listener = Place::listening(Kind::Unix);
    let bridge = |more: &[&str]| {
        let arguments = ["--names", NAMES, "--rules", path.to_str().unwrap()];
        let bridge = Bridge::to("gateway")
            .listener(&listener)
            .arguments(&arguments);
        let Finished { code, stderr, .. } = bridge.arguments(more).finish();
        (code, stderr.join("\n"))
    };
    for more in [&[][..], &["--check"]] {
        let (status, stderr) = bridge(more);
        assert_eq!(status, 2, "{stderr}");
        for words in ["rules:2: \"we;b\"", "rules:3: \"example.net\""] {
            assert!(stderr.contains(words), "{stderr}");
        }
    }
    // It may yet be started.
    fs::write(&path, "wbe db:1\n").unwrap();
    let (status, stderr) = bridge(&["--check"]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains("rules:1: no machine is named \"wbe\", did you mean web?"),
        "{stderr}"
    );
    fs::write(&path, "web db:1\n").unwrap();
    assert_eq!(bridge(&["--check"]), (0, String::new()));
}

#[test]
fn a_mebibyte_of_rules_needs_little_memory() {
    let mut rules: String = (0..100_000)
        .map(|n| format!("9 4:{}\n", n % 50_000 + 1))
        .collect();
    let target = Place::listening(Kind::Tcp4);
    rules += &format!("web {}\n", target.text);
    let mut gateway = Gateway::new(&rules);
    gateway.program.wait_for_line("100001 rules of");
    ping_through(&mut gateway.ask(&connect(&target.text)), &target);
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.program.pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.unwrap().trim().trim_end_matches(" kB");
    assert!(most.parse::<usize>().unwrap() < 80 << 10, "{status}");
}

#[test]
fn a_machine_that_nobody_is_and_options_of_a_gateway_elsewhere_are_told() {
    let folder = own_folder();
    let rules = folder.path().join("rules");
    fs::write(&rules, "web db:1\n").unwrap();
    let (rules, listener) = (rules.to_str().unwrap(), Place::listening(Kind::Unix));
    let nobody = "no machine is named \"nobody\"";
    let stray = |option: &str| {
        format!(
            "{option} has no effect: it is for the target `gateway`, and this one is [::1]:1; take it out"
        )
    };
    for (to, arguments, line) in [
        ("gateway", &["--machine", "nobody"][..], nobody.to_owned()),
        ("[::1]:1", &["--machine", "web"], stray("--machine")),
        ("[::1]:1", &["--rules", rules], stray("--rules")),
        ("[::1]:1", &["--as-peer", "yes"], stray("--as-peer")),
    ] {
        for more in [&[][..], &["--check"]] {
            let bridge = Bridge::to(to).listener(&listener).arguments(arguments);
            let bridge = match to {
                "gateway" => bridge.arguments(&["--rules", rules]),
                _ => bridge,
            };
            let finished = bridge
                .arguments(&["--names", NAMES])
                .arguments(more)
                .finish();
            assert_eq!(finished.code, 2, "{finished:#?}");
            let [said] = &finished.stderr[..] else {
                panic!("{finished:#?}")
            };
            assert!(said.contains(&line), "{said}");
        }
    }
    // The name of a machine behind hybrid vsock is its socket.
    fs::write(rules, "hy db:1\n").unwrap();
    let hybrid = ["--names", "hy=/run/hy.vsock db=4", "--rules", rules];
    let hint = "; as one who comes to the gateway it has a number, as in --machine 3 and the rule `3 db:5432`";
    for more in [&["--check"][..], &["--machine", "hy"]] {
        let bridge = Bridge::to("gateway").listener(&listener);
        let finished = bridge.arguments(&hybrid).arguments(more).finish();
        let said = finished.stderr.join("\n");
        assert!(finished.code == 2 && said.contains(hint), "{finished:#?}");
    }
    let finished = Bridge::to("[::1]:1")
        .listener(&listener)
        .variable("VSOCK_BRIDGE_MACHINE", "web")
        .arguments(&["--check"])
        .finish();
    let line = stray("environment: VSOCK_BRIDGE_MACHINE");
    assert_eq!(finished.stderr, [format!("vsock-bridge: {line}")]);
}
