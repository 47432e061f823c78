//! A target that is a listener of the same bridge, by whatever way it is written: refused at the start, in one line.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::common::bridge::Bridge;
use crate::common::place::{Kind, Place};
use crate::common::{own_folder, skipped};

/// What the bridge of a listener with that target has to say.
fn expect_refused(bridge: Bridge, target: &str, listener: &str) {
    let finished = bridge.finish();
    assert_eq!((finished.code, &*finished.stdout), (2, ""), "{finished:#?}");
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    for word in [target, listener, "leads back", "VSOCK_BRIDGE_TO"] {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
}

fn expect_circle(listener: &Place, target: &str) {
    let bridge = Bridge::to(target).listener(listener);
    expect_refused(bridge, target, &listener.text);
}

/// A listener on all addresses, and its port.
fn everywhere(address: &str) -> (Place, u16) {
    let place = Place::bound_to(address);
    place.socket.listen(16).unwrap();
    let port = place.address.as_socket().unwrap().port();
    (place, port)
}

#[test]
fn the_target_is_the_address_of_the_listener_it_is_refused() {
    for kind in Kind::ALL {
        let listener = Place::listening(kind);
        expect_circle(&listener, &listener.text);
    }
    let listener = Place::listening(Kind::Tcp6);
    expect_circle(&listener, &listener.text.replace("::1", "::"));
    let listener = Place::listening(Kind::Tcp6);
    let mapped = Bridge::to("[::1]:mapped").listener(&listener);
    expect_refused(mapped, &listener.text, &listener.text);
}

#[test]
fn the_listener_is_on_all_addresses_and_the_target_on_one_of_them_it_is_refused() {
    let (listener, port) = everywhere("[::]:0");
    for host in [
        "[::1]",
        "[::]",
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "localhost",
    ] {
        expect_circle(&listener, &format!("{host}:{port}"));
    }
    let (listener, port) = everywhere("0.0.0.0:0");
    for host in ["127.0.0.1", "127.0.0.9", "0.0.0.0", "localhost"] {
        expect_circle(&listener, &format!("{host}:{port}"));
    }
}

#[test]
fn one_of_two_listeners_is_the_target_it_is_refused() {
    let (one, other) = (Place::listening(Kind::Unix), Place::listening(Kind::Tcp4));
    let bridge = Bridge::to(&other.text).listener(&one).listener(&other);
    expect_refused(bridge, &other.text, &other.text);
}

#[test]
fn another_path_leads_to_the_socket_of_the_listener_it_is_refused() {
    let listener = Place::listening(Kind::Unix);
    let folder = own_folder();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&listener.text, &link).unwrap();
    let link = link.to_str().unwrap();
    expect_circle(&listener, link);
    expect_circle(&listener, &format!("vsock-mux:{link}:445"));
    // The folder of the link is another way to the same place.
    let parent = folder.path().join("folder");
    let (own_folder, name) = listener.text.rsplit_once('/').unwrap();
    std::os::unix::fs::symlink(own_folder, &parent).unwrap();
    expect_circle(&listener, &format!("{}/{name}", parent.display()));
}

#[test]
fn the_target_is_the_abstract_name_of_the_listener_it_is_refused() {
    let name = format!("vsock-bridge-circle-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let target = format!("@{name}");
    let bridge = Bridge::to(&target).descriptor(OwnedFd::from(listener));
    expect_refused(bridge, &target, &target);
}

#[test]
fn a_connection_was_accepted_at_the_address_of_the_target_it_is_refused() {
    let listener = Place::listening(Kind::Tcp6);
    let _client = listener.connect();
    let bridge = Bridge::to(&listener.text).descriptor(listener.accept());
    expect_refused(bridge, &listener.text, &listener.text);
}

#[test]
fn the_target_has_the_same_port_at_an_address_that_the_listener_does_not_take_it_is_served() {
    let target = Place::listening(Kind::Tcp4);
    let port = target.address.as_socket().unwrap().port();
    let address: std::net::SocketAddr = format!("[::1]:{port}").parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    if socket.bind(&address.into()).is_err() || socket.listen(1).is_err() {
        return skipped("somebody has the same port of the other family");
    }
    let mut bridge = Bridge::to(&target.text).descriptor(socket).start();
    bridge.wait_for_line("bridging");
    let client = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    client.connect(&address.into()).unwrap();
    drop(target.accept());
}
