//! `--proxy-protocol`: the target learns who connected from a header before the first byte, and nothing else changes.
//!
//! The headers are read by an independent decoder, and by HAProxy and nginx where they are installed. A vsock peer is in
//! `tests/vm`; what it is told as is tested in `src/proxy_protocol.rs`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::pair::{Accept, Pair};
use crate::common::place::{Kind, Place, ping, reset};
use crate::common::program::{Program, command};
use crate::common::{eventually, own_folder, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ppp::HeaderResult;
use socket2::Socket;
use vsock_bridge::testing::{Peer, Version, header};
use vsock_bridge_values::endpoint::Endpoint;

const VERSIONS: [&str; 3] = ["v1", "v2", "v2-plain"];

/// Who connected and where to, or nothing for one without address.
type Told = Option<(SocketAddr, SocketAddr)>;

/// Reads no byte more than the header, and decodes it.
fn read_header(version: &str, server: &mut impl Read) -> Told {
    let mut bytes = vec![0; if version == "v1" { 8 } else { 16 }];
    server.read_exact(&mut bytes).unwrap();
    while version == "v1" && !bytes.ends_with(b"\r\n") {
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    if version != "v1" {
        let rest = u16::from_be_bytes([bytes[14], bytes[15]]);
        bytes.resize(16 + usize::from(rest), 0);
        server.read_exact(&mut bytes[16..]).unwrap();
    }
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Told {
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            ppp::v1::Addresses::Tcp4(a) => Some((
                (a.source_address, a.source_port).into(),
                (a.destination_address, a.destination_port).into(),
            )),
            ppp::v1::Addresses::Tcp6(a) => Some((
                (a.source_address, a.source_port).into(),
                (a.destination_address, a.destination_port).into(),
            )),
            ppp::v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(header)) => match header.addresses {
            ppp::v2::Addresses::IPv4(a) => Some((
                (a.source_address, a.source_port).into(),
                (a.destination_address, a.destination_port).into(),
            )),
            ppp::v2::Addresses::IPv6(a) => Some((
                (a.source_address, a.source_port).into(),
                (a.destination_address, a.destination_port).into(),
            )),
            _ => {
                assert_eq!(header.command, ppp::v2::Command::Local);
                None
            }
        },
        other => panic!("{other:?}"),
    }
}

/// What the target should be told of a client.
fn ends(client: &Socket) -> Told {
    let from = client.local_addr().unwrap().as_socket()?;
    Some((from, client.peer_addr().unwrap().as_socket()?))
}

/// Every pair of sockets, mode and version, with the header read by the target.
fn each(test: impl Fn(Pair)) {
    for version in VERSIONS {
        for from in Kind::ALL {
            for to in Kind::ALL {
                for accept in Accept::BOTH {
                    eprintln!("{version}, {from:?} to {to:?}, Accept={accept:?}");
                    let mut pair = Pair::new(accept, from, to, &["--proxy-protocol", version]);
                    let told = read_header(version, &mut pair.server);
                    assert_eq!(told, ends(&pair.client));
                    assert_eq!(told.is_some(), from.is_tcp());
                    test(pair);
                }
            }
        }
    }
}

#[test]
fn the_header_comes_before_any_byte_once_and_is_not_counted() {
    let content = Content::new(81);
    each(|pair| {
        let (mut client, mut server, ends) = pair.split();
        ping(&mut client, &mut server);
        std::thread::scope(|scope| {
            let mut sender = client.try_clone().unwrap();
            let content = &content;
            scope.spawn(move || {
                content.send(&mut sender, 1 << 20);
                sender.shutdown(std::net::Shutdown::Write).unwrap();
            });
            content.expect_all(&mut server, 1 << 20);
        });
        content.send(&mut server, 3000);
        drop(server);
        content.expect_all(&mut client, 3000);
        ends.expect_complete((1 << 20) + 1, 3001);
    });
}

/// Receivers refuse `TCP6 ::ffff:127.0.0.1`, or do not find it in their lists.
#[test]
fn an_ipv4_client_of_a_listener_for_both_families_is_told_as_ipv4() {
    for version in VERSIONS {
        let (listener, target) = (Place::bound_to("[::]:0"), Place::listening(Kind::Tcp6));
        listener.socket.listen(1).unwrap();
        let port = listener.address.as_socket().unwrap().port();
        let there: SocketAddr = ([127, 0, 0, 1], port).into();
        let client = crate::common::place::stream(Kind::Tcp4);
        client.connect(&there.into()).unwrap();
        let bridge = Bridge::to(&target.text).arguments(&["--proxy-protocol", version]);
        let _bridge = bridge.listener(&listener).start();
        let told = read_header(version, &mut target.accept());
        assert_eq!(told, ends(&client), "{version}");
    }
}

#[test]
fn a_client_that_ends_without_a_byte_is_told_and_then_its_end() {
    each(|pair| {
        let (client, mut server, ends) = pair.split();
        drop(client);
        assert_eq!(read_to_end(&mut server), (vec![], End::Clean));
        drop(server);
        ends.expect_complete(0, 0);
    });
}

#[test]
fn a_header_that_the_peer_sends_itself_is_payload_behind_ours() {
    let theirs = b"PROXY TCP6 ::1 ::1 1 2\r\n";
    each(|mut pair| {
        pair.client.write_all(theirs).unwrap();
        let (client, mut server, ends) = pair.split();
        drop(client);
        assert_eq!(read_to_end(&mut server), (theirs.to_vec(), End::Clean));
        drop(server);
        ends.expect_complete(theirs.len() as u64, 0);
    });
}

#[test]
fn a_client_that_was_reset_before_the_target_is_reached_is_no_clean_end() {
    for version in VERSIONS {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
        let mut client = listener.connect();
        client.write_all(b"lost with the reset").unwrap();
        reset(client);
        let bridge = Bridge::to(&target.text)
            .arguments(&["--proxy-protocol", version])
            .listener(&listener)
            .start();
        // The reset may be there before the target has accepted.
        let end = match target.socket.accept() {
            Ok((mut server, _)) => read_to_end(&mut server).1,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(end, End::Reset);
        bridge.stop();
    }
}

#[test]
fn behind_the_answer_of_a_vmm_the_header_comes_first() {
    for version in VERSIONS {
        let (listener, vmm) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
        let bridge = Bridge::to(&format!("vsock-mux:{}:445", vmm.text))
            .arguments(&["--proxy-protocol", version])
            .listener(&listener)
            .start();
        let mut client = listener.connect();
        let mut vm = vmm.accept();
        let mut request = [0; 12];
        vm.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"CONNECT 445\n");
        vm.write_all(b"OK 1\n").unwrap();
        assert_eq!(read_header(version, &mut vm), ends(&client));
        ping(&mut client, &mut vm);
        drop((client, vm));
        bridge.stop();
    }
}

/// Bytes that are there when the target is reached need no segment of their own.
#[test]
fn header_and_first_bytes_are_one_write() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    for from in [Kind::Tcp6, Kind::Unix] {
        for to in [Kind::Tcp6, Kind::Unix] {
            let (listener, target) = (Place::listening(from), Place::listening(to));
            let bridge = Bridge::to(&target.text)
                .arguments(&["--proxy-protocol", "v1"])
                .listener(&listener);
            let mut client = listener.connect();
            client.write_all(b"first bytes").unwrap();
            let directory = own_folder();
            let calls = directory.path().join("calls");
            let mut bridge = traced(bridge, &calls);
            let mut server = target.accept();
            read_header("v1", &mut server);
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(
                read_to_end(&mut server),
                (b"first bytes".to_vec(), End::Clean)
            );
            drop((server, client));
            kill(Pid::from_raw(bridge.pid() as i32), Signal::SIGTERM).unwrap();
            bridge.wait();
            let calls = std::fs::read_to_string(calls).unwrap();
            let headers: Vec<&str> = calls.lines().filter(|l| l.contains("PROXY ")).collect();
            let [header] = headers[..] else {
                panic!("{calls}")
            };
            assert!(header.contains("\\r\\nfirst bytes\""), "{header}");
        }
    }
}

/// Starts a bridge whose writes are written down from the first on.
fn traced(bridge: Bridge, calls: &Path) -> Program {
    let path = calls.to_str().unwrap();
    bridge
        .wrapped(format!(
            "strace -D -f -s 200 -e trace=write,sendmmsg,sendto -o {path}"
        ))
        .start()
}

#[test]
fn another_version_exits_2_with_one_line() {
    for text in ["", "1", "2", "v3", "V1", "v1 "] {
        let listener = Place::listening(Kind::Tcp6);
        let finished = Bridge::to("[::1]:1")
            .arguments(&["--proxy-protocol", text])
            .listener(&listener)
            .finish();
        assert_eq!(finished.code, 2, "{finished:#?}");
        assert_eq!(finished.stderr.len(), 1, "{finished:#?}");
    }
}

#[test]
fn the_variable_is_the_option() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text)
        .variable("VSOCK_BRIDGE_PROXY_PROTOCOL", "v2")
        .listener(&listener)
        .start();
    let client = listener.connect();
    assert_eq!(read_header("v2", &mut target.accept()), ends(&client));
    drop(client);
    bridge.stop();
}

/// A real receiver of the protocol, which answers a request with the addresses that it was told.
struct Receiver {
    _program: Program,
    directory: tempfile::TempDir,
}

impl Receiver {
    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    /// Starts a program with a configuration in which DIR stands for a folder of its own.
    fn start(program: &str, arguments: &[&str], configuration: &str) -> Option<Receiver> {
        if !Path::new(program).exists() {
            skipped(&format!("{program} is not installed"));
            return None;
        }
        let directory = own_folder();
        let in_directory = |text: &str| text.replace("DIR", directory.path().to_str().unwrap());
        let file = directory.path().join("configuration");
        std::fs::write(&file, in_directory(configuration)).unwrap();
        let mut command = command(program);
        command.args(arguments.iter().map(|text| in_directory(text)));
        let receiver = Receiver {
            _program: Program::start(command),
            directory,
        };
        let is_there = || UnixStream::connect(receiver.path()).is_ok();
        eventually("the receiver listens", is_there);
        Some(receiver)
    }

    fn haproxy() -> Option<Receiver> {
        Receiver::start(
            "/usr/sbin/haproxy",
            &["-db", "-f", "DIR/configuration"],
            "defaults\n timeout client 1m\n timeout server 1m\n timeout connect 1m\n\
             frontend receiver\n mode http\n bind DIR/socket accept-proxy\n \
             http-request return status 200 content-type text/plain \
             lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n",
        )
    }

    fn nginx() -> Option<Receiver> {
        Receiver::start(
            "/usr/sbin/nginx",
            &["-p", "DIR", "-e", "DIR/log", "-c", "DIR/configuration"],
            "daemon off; master_process off; pid DIR/pid; events {}\nhttp { access_log off;\n\
             client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3;\n\
             uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;\n\
             server { listen unix:DIR/socket proxy_protocol; location / { return 200 \
             '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port'; } } }\n",
        )
    }

    fn all() -> impl Iterator<Item = Receiver> {
        [Receiver::haproxy(), Receiver::nginx()]
            .into_iter()
            .flatten()
    }
}

/// Asks with HTTP and gives the body of the answer.
fn ask(stream: &mut (impl Read + Write)) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let (answer, _) = read_to_end(stream);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned()
}

/// As the receivers answer.
fn words((from, to): (SocketAddr, SocketAddr)) -> String {
    format!("{} {} {} {}", from.ip(), from.port(), to.ip(), to.port())
}

#[test]
fn haproxy_and_nginx_see_the_client_of_the_bridge() {
    for receiver in Receiver::all() {
        for version in VERSIONS {
            for kind in [Kind::Tcp6, Kind::Tcp4] {
                let listener = Place::listening(kind);
                let bridge = Bridge::to(receiver.path().to_str().unwrap())
                    .arguments(&["--proxy-protocol", version])
                    .listener(&listener)
                    .start();
                let mut client = listener.connect();
                let expected = words(ends(&client).unwrap());
                assert_eq!(ask(&mut client), expected);
                drop(client);
                bridge.stop();
            }
        }
    }
}

#[test]
fn haproxy_and_nginx_serve_a_client_without_an_address() {
    for receiver in Receiver::all() {
        for version in VERSIONS {
            let listener = Place::listening(Kind::Unix);
            let bridge = Bridge::to(receiver.path().to_str().unwrap())
                .arguments(&["--proxy-protocol", version])
                .listener(&listener)
                .start();
            ask(&mut listener.connect());
            bridge.stop();
        }
    }
}

#[test]
fn haproxy_and_nginx_see_a_machine_by_its_mapped_address() {
    let vsock = |text: &str| match text.parse().unwrap() {
        Endpoint::Vsock(addr) => addr,
        other => panic!("{other}"),
    };
    for receiver in Receiver::all() {
        for version in [Version::V1, Version::V2] {
            let peer = Peer::Vsock(vsock("vsock:3:1024"));
            let local = Endpoint::Vsock(vsock("vsock:2:445"));
            let prefix = "fd00:1:2:3::/64".parse().ok();
            let header = header(version, &peer, Some(&local), prefix);
            let mut stream = UnixStream::connect(receiver.path()).unwrap();
            stream
                .set_read_timeout(Some(crate::common::DEADLINE))
                .unwrap();
            stream.write_all(&header).unwrap();
            assert_eq!(ask(&mut stream), "fd00:1:2:3::3 1024 fd00:1:2:3::2 445");
        }
    }
}
