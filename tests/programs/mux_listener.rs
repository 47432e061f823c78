//! What the guests of a hybrid vsock open to their host: `<path>_<port>` of the VMM's socket leads to that port, and with
//! a target of the same kind from one guest to another.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place, ping, stream};
use crate::common::program::Program;
use socket2::Socket;

/// The VMM's end of hybrid vsock, as Firecracker's docs/vsock.md has it: what the host side asks for with `CONNECT`
/// reaches a port of the guest if somebody listens there, and is hung up on otherwise.
struct Vmm {
    socket: Place,
    open_port: u32,
}

impl Vmm {
    fn new(open_port: u32) -> Vmm {
        let socket = Place::named("vm.vsock");
        socket.socket.listen(4096).unwrap();
        Vmm { socket, open_port }
    }

    /// Takes one connection to the guest; none if nobody listens on its port there.
    fn accept(&self) -> Option<Socket> {
        let mut stream = self.socket.accept();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.extend(byte);
            assert!(line.len() < 32, "{}", line.escape_ascii());
        }
        let line = String::from_utf8(line).unwrap();
        let port: u32 = line
            .strip_prefix("CONNECT ")
            .and_then(|rest| rest.trim_end().parse().ok())
            .expect(&line);
        if port != self.open_port {
            return None;
        }
        stream.write_all(b"OK 1073741824\n").unwrap();
        Some(stream)
    }
}

/// A host service, and the socket of a VMM that stands for its port.
fn host_service() -> (Place, Place) {
    let target = Place::listening(Kind::Tcp6);
    let listener = socket_for(&target);
    (listener, target)
}

/// A socket whose name ends in the port of a TCP target.
fn socket_for(target: &Place) -> Place {
    let port = target.address.as_socket().unwrap().port();
    let listener = Place::named(&format!("vm_1.vsock_{port}"));
    listener.socket.listen(4096).unwrap();
    listener
}

fn expect_complete(mut bridge: Program, inbound_bytes: u64, outbound_bytes: u64) {
    let line = format!("complete: {inbound_bytes} bytes in, {outbound_bytes} bytes out");
    bridge.wait_for_line(&line);
    bridge.stop();
}

#[test]
fn a_guest_reaches_the_port_that_its_socket_names_and_each_end_is_its_own() {
    let content = Content::new(91);
    let (listener, target) = host_service();
    let bridge = Bridge::to("[::1]:mapped").listener(&listener).start();
    let (mut guest, mut server) = (listener.connect(), target.accept());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            content.send(&mut &guest, 5 << 20);
            guest.shutdown(Shutdown::Write).unwrap();
        });
        content.expect_all(&mut server, 5 << 20);
    });
    content.send(&mut server, 3 << 20);
    drop(server);
    content.expect_all(&mut guest, 3 << 20);
    expect_complete(bridge, 5 << 20, 3 << 20);
}

#[test]
fn sockets_of_two_machines_lead_to_the_same_port() {
    let (first, target) = host_service();
    let second = socket_for(&target);
    let bridge = Bridge::to("[::1]:mapped")
        .listener(&first)
        .listener(&second)
        .start();
    for listener in [&first, &second, &first] {
        ping(&mut listener.connect(), &mut target.accept());
    }
    bridge.stop();
}

#[test]
fn each_listener_leads_to_the_port_that_it_names() {
    let services = [0; 3].map(|_| host_service());
    let elsewhere = Place::listening(Kind::Tcp6);
    let port = elsewhere.address.as_socket().unwrap().port();
    // Over TCP, on every address of IPv4, with a listener of its own behind.
    let listener = Place::bound_to(&format!("0.0.0.0:{port}"));
    listener.socket.listen(16).unwrap();
    let bridge = services
        .iter()
        .fold(Bridge::to("[::1]:mapped"), |bridge, (listener, _)| {
            bridge.listener(listener)
        });
    let mut bridge = bridge.listener(&listener).start();
    for (listener, target) in &services {
        bridge.wait_for_line(&format!("bridging {} to {}", listener.text, target.text));
    }
    for (listener, target) in services.iter().rev() {
        ping(&mut listener.connect(), &mut target.accept());
    }
    let mut client = stream(Kind::Tcp4);
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    client.connect(&address.into()).unwrap();
    ping(&mut client, &mut elsewhere.accept());
    drop(client);
    let log = bridge.stop();
    for (_, target) in services.iter().chain([&(listener, elsewhere)]) {
        let line = format!(" to {} complete", target.text);
        assert!(
            log.iter().any(|told| told.contains(&line)),
            "{line}: {log:#?}"
        );
    }
}

#[test]
fn nothing_listens_on_the_port_of_one_listener_the_others_are_served() {
    let (served, target) = host_service();
    let nobody = Place::bound(Kind::Tcp6);
    let listener = socket_for(&nobody);
    let mut bridge = Bridge::to("[::1]:mapped")
        .listener(&listener)
        .listener(&served)
        .start();
    let mut guest = listener.connect();
    assert_eq!(read_to_end(&mut guest), (vec![], End::Clean));
    bridge.wait_for_line(&format!("to {} closed", nobody.text));
    ping(&mut served.connect(), &mut target.accept());
    bridge.stop();
}

#[test]
fn accept_yes_takes_the_port_from_the_socket_of_the_connection() {
    let (listener, target) = host_service();
    let mut guest = listener.connect();
    let mut bridge = Bridge::to("[::1]:mapped")
        .descriptor(listener.accept())
        .start();
    let mut server = target.accept();
    ping(&mut guest, &mut server);
    drop((guest, server));
    assert_eq!(bridge.exit_code(), 0, "{:#?}", bridge.log);
}

#[test]
fn a_listener_that_names_no_port_exits_2_with_one_line() {
    for names in [
        &["vm.vsock"][..],
        &["vm.vsock_0"],
        &["vm.vsock_65536"],
        &["vm.vsock_x"],
        &["vm.vsock_445", "vm.vsock"],
    ] {
        let places: Vec<Place> = names.iter().map(|name| Place::named(name)).collect();
        places.iter().for_each(|p| p.socket.listen(1).unwrap());
        let bridge = places
            .iter()
            .fold(Bridge::to("[::1]:mapped"), Bridge::listener);
        let finished = bridge.finish();
        assert_eq!(finished.code, 2, "{finished:#?}");
        let [line] = &finished.stderr[..] else {
            panic!("{finished:#?}")
        };
        assert!(
            line.contains("[::1]:mapped") && line.contains("port"),
            "{line}"
        );
    }
}

#[test]
fn nothing_listens_on_the_port_the_guest_is_closed_and_served_once_there_is() {
    let target = Place::bound(Kind::Tcp6);
    let listener = socket_for(&target);
    let mut bridge = Bridge::to("[::1]:mapped").listener(&listener).start();
    let mut guest = listener.connect();
    assert_eq!(read_to_end(&mut guest), (vec![], End::Clean));
    bridge.wait_for_line("nothing listens");
    target.socket.listen(1).unwrap();
    ping(&mut listener.connect(), &mut target.accept());
    bridge.stop();
}

#[test]
fn from_one_guest_to_another_both_ways_and_each_end_is_its_own() {
    let content = Content::new(92);
    let vmm = Vmm::new(445);
    let listener = Place::named("first.vsock_445");
    listener.socket.listen(1).unwrap();
    let bridge = Bridge::to(&format!("vsock-mux:{}:445", vmm.socket.text))
        .listener(&listener)
        .start();
    let mut guest = listener.connect();
    let mut other = vmm.accept().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| content.send(&mut &guest, 5 << 20));
        scope.spawn(|| content.send(&mut &other, 5 << 20));
        content.expect(&mut &guest, 5 << 20);
        content.expect(&mut &other, 5 << 20);
    });
    guest.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut other), (vec![], End::Clean));
    other.write_all(b"last").unwrap();
    drop(other);
    assert_eq!(read_to_end(&mut guest), (b"last".to_vec(), End::Clean));
    expect_complete(bridge, 5 << 20, (5 << 20) + 4);
}

#[test]
fn the_other_guest_refuses_the_port_the_first_is_closed_with_a_line_and_others_go_on() {
    let vmm = Vmm::new(445);
    let (listener, refused) = (
        Place::named("first.vsock_445"),
        Place::named("first.vsock_22"),
    );
    listener.socket.listen(1).unwrap();
    refused.socket.listen(1).unwrap();
    let start = |listener: &Place, port: u16| {
        let target = format!("vsock-mux:{}:{port}", vmm.socket.text);
        Bridge::to(&target).listener(listener).start()
    };
    let (bridge, mut refusing) = (start(&listener, 445), start(&refused, 22));
    let (mut guest, mut other) = (listener.connect(), vmm.accept());
    let other = other.as_mut().unwrap();
    let mut unlucky = refused.connect();
    assert!(vmm.accept().is_none());
    assert_eq!(read_to_end(&mut unlucky), (vec![], End::Clean));
    refusing.wait_for_line("nothing listens on that port in the VM");
    ping(&mut guest, other);
    drop(guest);
    assert_eq!(read_to_end(other), (vec![], End::Clean));
    drop(bridge);
}

#[test]
fn the_monitor_dies_in_the_middle_what_it_sent_arrives_and_the_guest_sees_an_end() {
    let content = Content::new(93);
    let vmm = Vmm::new(445);
    let listener = Place::named("first.vsock_445");
    listener.socket.listen(1).unwrap();
    let mut bridge = Bridge::to(&format!("vsock-mux:{}:445", vmm.socket.text))
        .listener(&listener)
        .start();
    let mut guest = listener.connect();
    let mut other = vmm.accept().unwrap();
    content.send(&mut other, 100_000);
    guest.write_all(b"never read").unwrap();
    content.expect(&mut guest, 100_000);
    // Not read by then, which makes the end a reset (unix(7)), wherever these bytes are on their way.
    crate::common::eventually("the bytes are there", || {
        other.peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok()
    });
    drop(other);
    assert_eq!(read_to_end(&mut guest).0, b"");
    bridge.wait_for_line("aborted by the target");
    bridge.stop();
}
