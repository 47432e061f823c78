//! Listeners of Multipath TCP (SocketProtocol=mptcp, systemd.socket(5)), whose sockets say that they are of TCP.

use std::net::{Shutdown, SocketAddr};
use std::thread;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place, ping, reset, stream};
use crate::common::program::Program;
use crate::common::skipped;
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

fn multipath() -> Option<Socket> {
    let protocol = Protocol::from(libc::IPPROTO_MPTCP);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol));
    if socket.is_err() {
        skipped("the kernel has no Multipath TCP, or it is switched off");
    }
    socket.ok()
}

/// A client, of Multipath TCP or not, a server, and the bridge between them, whose listener is of Multipath TCP.
fn connected(is_multipath: bool) -> Option<(Socket, Socket, Program)> {
    let (listener, target) = (multipath()?, Place::listening(Kind::Tcp6));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(10).unwrap();
    let client = match is_multipath {
        true => multipath()?,
        false => stream(Kind::Tcp4),
    };
    client.connect(&listener.local_addr().unwrap()).unwrap();
    let bridge = Bridge::to(&target.text).arguments(&["-v"]);
    let bridge = bridge.descriptor(listener).start();
    Some((client, target.accept(), bridge))
}

#[test]
fn bulk_goes_both_ways_and_each_end_arrives() {
    let (there, back) = (Content::new(91), Content::new(92));
    let count = 5 << 20;
    for is_multipath in [true, false] {
        let Some((client, server, mut bridge)) = connected(is_multipath) else {
            return;
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                there.send(&mut &client, count);
                client.shutdown(Shutdown::Write).unwrap();
            });
            there.expect_all(&mut &server, count);
            scope.spawn(|| {
                back.send(&mut &server, count);
                server.shutdown(Shutdown::Write).unwrap();
            });
            back.expect_all(&mut &client, count);
        });
        bridge.wait_for_line(" complete: ");
        bridge.stop();
    }
}

#[test]
fn one_end_resets_the_other_is_reset() {
    for is_client in [true, false] {
        let Some((mut client, mut server, bridge)) = connected(true) else {
            return;
        };
        ping(&mut client, &mut server);
        let (gone, mut left) = match is_client {
            true => (client, server),
            false => (server, client),
        };
        reset(gone);
        assert_eq!(read_to_end(&mut left), (vec![], End::Reset));
        bridge.stop();
    }
}
