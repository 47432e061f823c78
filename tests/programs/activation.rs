//! What systemd passes: listeners of every kind, connections, names; and leaving when idle.

use crate::common::bridge::Bridge;
use crate::common::content::{End, read_to_end};
use crate::common::place::{Kind, Place, ping, reset, stream};
use crate::common::{DEADLINE, eventually};

#[test]
fn listeners_of_every_family_in_one_process_each_is_served() {
    for to in Kind::ALL {
        let target = Place::listening(to);
        let listeners = Kind::ALL.map(Place::listening);
        let bridge = listeners
            .iter()
            .fold(Bridge::to(&target.text), Bridge::listener)
            .variable("LISTEN_FDNAMES", "six:four:unix")
            .start();
        let mut open: Vec<_> = listeners
            .iter()
            .map(|listener| (listener.connect(), target.accept()))
            .collect();
        for (client, server) in &mut open {
            ping(client, server);
        }
        drop(open);
        let log = bridge.stop();
        for listener in &listeners {
            let line = format!("bridging {} to {}", listener.text, target.text);
            assert!(log.iter().any(|l| l.ends_with(&line)), "{line}: {log:#?}");
        }
    }
}

#[test]
fn two_hundred_listeners_in_one_process_each_is_served() {
    let target = Place::listening(Kind::Tcp6);
    let listeners: Vec<_> = (0..200).map(|_| Place::listening(Kind::Tcp6)).collect();
    let bridge = listeners
        .iter()
        .fold(Bridge::to(&target.text), Bridge::listener)
        .start();
    for listener in listeners.iter().rev() {
        ping(&mut listener.connect(), &mut target.accept());
    }
    bridge.stop();
}

#[test]
fn abstract_names_are_listeners_and_targets() {
    let place = Place::listening(Kind::Tcp6);
    let name = format!(
        "@vsock-bridge-test-{}",
        place.address.as_socket().unwrap().port()
    );
    let address = socket2::SockAddr::unix(name.replacen('@', "\0", 1)).unwrap();
    let socket = stream(Kind::Unix);
    socket.bind(&address).unwrap();
    socket.listen(1).unwrap();
    let inner = Bridge::to(&place.text).descriptor(socket).start();
    let listener = Place::listening(Kind::Unix);
    let outer = Bridge::to(&name).listener(&listener).start();
    let (mut client, mut server) = (listener.connect(), place.accept());
    ping(&mut client, &mut server);
    drop((client, server));
    let log = inner.stop();
    assert!(log[0].contains(&format!("bridging {name} to ")), "{log:#?}");
    outer.stop();
}

#[test]
fn listeners_and_connections_together_all_are_served() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let mut passed = listener.connect();
    let bridge = Bridge::to(&target.text)
        .descriptor(listener.accept())
        .listener(&listener)
        .start();
    ping(&mut passed, &mut target.accept());
    ping(&mut listener.connect(), &mut target.accept());
    drop(passed);
    bridge.stop();
}

#[test]
fn nobody_for_the_idle_time_exit_0_and_a_waiting_client_is_served_by_the_next_process() {
    for variable in [false, true] {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
        let idle = |time: &str| {
            let bridge = Bridge::to(&target.text).listener(&listener);
            match variable {
                true => bridge.variable("VSOCK_BRIDGE_EXIT_IDLE_TIME", time),
                false => bridge.arguments(&["--exit-idle-time", time]),
            }
        };
        // Connected before, as whoever has systemd start the service.
        let client = listener.connect();
        let mut bridge = idle("100ms").start();
        let server = target.accept();
        drop((client, server));
        assert_eq!(bridge.exit_code(), 0, "{:#?}", bridge.log);
        let mut waiting = listener.connect();
        let mut next = idle("1h").start();
        ping(&mut waiting, &mut target.accept());
        next.signal(nix::sys::signal::Signal::SIGTERM);
        drop(waiting);
        assert_eq!(next.exit_code(), 0);
    }
}

#[test]
fn a_connection_without_bytes_is_not_idle_the_process_stays() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let mut client = listener.connect();
    let mut bridge = Bridge::to(&target.text)
        .arguments(&["--exit-idle-time", "50ms"])
        .listener(&listener)
        .start();
    let mut server = target.accept();
    // Three times the idle time pass; a process that left would take the connection along.
    client
        .set_read_timeout(Some(std::time::Duration::from_millis(150)))
        .unwrap();
    assert!(client.recv(&mut [std::mem::MaybeUninit::new(0)]).is_err());
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    ping(&mut client, &mut server);
    drop((client, server));
    assert_eq!(bridge.exit_code(), 0);
}

/// Else systemd would start one process after the other for the same client.
#[test]
fn the_idle_time_has_passed_at_the_start_the_waiting_client_is_served_first() {
    for time in ["0", "1ms"] {
        let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
        let mut client = listener.connect();
        let mut bridge = Bridge::to(&target.text)
            .arguments(&["--exit-idle-time", time])
            .listener(&listener)
            .start();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        eventually("the client is served, or the process has left", || {
            !target.has_nobody_waiting() || bridge.has_ended()
        });
        assert!(!target.has_nobody_waiting(), "left without a look");
        drop(target.accept());
        assert_eq!(read_to_end(&mut client), (vec![], End::Clean));
        assert_eq!(bridge.exit_code(), 0);
    }
}

/// Clients that come at the very moment the process leaves.
#[test]
fn clients_come_while_the_process_leaves_each_is_served_by_this_or_the_next() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let start = || {
        Bridge::to(&target.text)
            .arguments(&["--exit-idle-time", "2ms"])
            .listener(&listener)
            .start()
    };
    let mut bridge = start();
    for _ in 0..100 {
        let mut client = listener.connect();
        eventually("the client is served", || {
            // systemd starts the service for whoever waits.
            if bridge.has_ended() {
                bridge = start();
            }
            !target.has_nobody_waiting()
        });
        ping(&mut client, &mut target.accept());
    }
}

#[test]
fn a_name_is_passed_without_names_and_in_utf_8_listener_is_served() {
    for names in [
        None,
        Some("a"),
        Some("vsock-bridge@445.socket"),
        Some("größe"),
        Some(""),
    ] {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
        let mut bridge = Bridge::to(&target.text).listener(&listener);
        if let Some(names) = names {
            bridge = bridge.variable("LISTEN_FDNAMES", names);
        }
        let bridge = bridge.start();
        ping(&mut listener.connect(), &mut target.accept());
        bridge.stop();
    }
}

/// The listener belongs to systemd: whatever the bridge does to it, the next process finds it as it was.
#[test]
fn the_bridge_ends_the_listener_still_listens() {
    for kind in Kind::ALL {
        let (listener, target) = (Place::listening(kind), Place::listening(Kind::Tcp6));
        let bridge = Bridge::to(&target.text).listener(&listener).start();
        drop((listener.connect(), target.accept()));
        bridge.stop();
        let client = listener.connect();
        drop(listener.accept());
        assert_eq!(read_to_end(&mut &client).1, End::Clean);
    }
}

#[test]
fn the_client_has_gone_before_the_bridge_of_its_connection_starts_exit_0() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let client = listener.connect();
    let accepted = listener.accept();
    reset(client);
    eventually("the reset has come", || accepted.peer_addr().is_err());
    let finished = Bridge::to(&target.text).descriptor(accepted).finish();
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert!(target.has_nobody_waiting());
}
