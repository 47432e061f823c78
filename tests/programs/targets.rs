//! Targets that are down, silent, late, full or badly named: what the client sees, and the one line that says why.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::bridge::Bridge;
use crate::common::content::{End, read_to_end};
use crate::common::own_etc::OwnEtc;
use crate::common::place::{Kind, Place, own_name, ping, stream};
use crate::common::program::Program;
use crate::common::{eventually, own_folder, skipped};
use socket2::Socket;

/// Connects to a bridge whose target fails; checks that the client is told and that one line names the peer, the
/// target and all the words.
fn expect_refused(from: Kind, bridge: Bridge, target: &str, words: &[&str]) {
    let listener = Place::listening(from);
    let bridge = bridge.listener(&listener).start();
    let peer = listener.expect_refusal();
    let log = bridge.stop();
    let lines: Vec<_> = log.iter().filter(|line| line.contains(&peer)).collect();
    let [line] = lines[..] else {
        panic!("not one line about {peer}: {log:#?}")
    };
    assert!(line.contains("warning: "), "{line}");
    for word in words.iter().chain(&[target]) {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
    // Besides it only the start and the end.
    assert_eq!(log.len(), 3, "{log:#?}");
    assert!(log[2].contains("0 refused, 1 without target"), "{log:#?}");
}

#[test]
fn nothing_listens_client_is_reset_and_one_line_says_why() {
    for from in Kind::ALL {
        for to in Kind::ALL {
            let target = Place::bound(to);
            let bridge = Bridge::to(&target.text);
            expect_refused(from, bridge, &target.text, &["nothing listens", "refused"]);
        }
    }
}

/// The last attempt begins behind the end of the time for them.
#[test]
fn nothing_listens_for_as_long_as_it_is_tried_the_reason_is_the_same() {
    let target = Place::bound(Kind::Tcp6);
    let bridge = Bridge::to(&target.text).arguments(&[
        "--connect-retry",
        "300ms",
        "--connect-timeout",
        "50ms",
    ]);
    expect_refused(
        Kind::Tcp6,
        bridge,
        &target.text,
        &["nothing listens", "refused"],
    );
}

#[test]
fn nothing_listens_accept_yes_client_is_reset_and_exit_1() {
    for kind in Kind::ALL {
        let (listener, target) = (Place::listening(kind), Place::bound(Kind::Tcp6));
        let mut client = listener.connect();
        let bridge = Bridge::to(&target.text).descriptor(listener.accept());
        let finished = bridge.finish();
        let end = if kind.is_tcp() {
            End::Reset
        } else {
            End::Clean
        };
        assert_eq!(read_to_end(&mut client), (vec![], end));
        assert_eq!(finished.code, 1, "{finished:#?}");
        let peer = match client.local_addr().unwrap().as_socket() {
            Some(address) => address.to_string(),
            None => own_name(),
        };
        let about = |line: &&String| line.contains(&peer);
        assert_eq!(
            finished.stderr.iter().filter(about).count(),
            1,
            "{finished:#?}"
        );
    }
}

#[test]
fn nothing_listens_then_target_comes_next_client_is_served() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::bound(Kind::Tcp6));
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    listener.expect_refusal();
    target.socket.listen(1).unwrap();
    ping(&mut listener.connect(), &mut target.accept());
    bridge.stop();
}

/// Starts a program where connections can go out from one port only.
const ONE_PORT: &str = "unshare --map-root-user --net sh -c 'ip link set lo up && \
    echo 45000 45000 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"'";

#[test]
fn nothing_listens_on_the_port_that_the_dial_goes_out_from_client_is_reset_and_the_port_is_free() {
    if !crate::common::bridge::works(&format!("{ONE_PORT} true")) {
        return skipped("no network namespaces, or no ip(8)");
    }
    for target in [
        "[::1]:45000",
        "127.0.0.1:45000",
        "[::ffff:127.0.0.1]:45000",
        "0.0.0.0:45000",
        "[::]:45000",
    ] {
        let listener = Place::listening(Kind::Unix);
        let bridge = Bridge::to(target).wrapped(ONE_PORT.to_owned());
        let mut bridge = bridge.listener(&listener).start();
        for _ in 0..3 {
            listener.expect_refusal();
            let line = bridge.wait_for_line("cannot connect");
            assert!(line.contains("nothing listens there"), "{line}");
        }
        for table in ["tcp", "tcp6"] {
            let path = format!("/proc/{}/net/{table}", bridge.pid());
            let sockets = std::fs::read_to_string(path).unwrap();
            // 45000; a socket that waits for its time to pass would be there.
            assert!(!sockets.contains(":AFC8"), "{target}: {sockets}");
        }
        bridge.stop();
    }
}

#[test]
fn a_thousand_refused_clients_are_a_few_lines() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::bound(Kind::Tcp6));
    let started = Instant::now();
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    for _ in 0..1000 {
        listener.expect_refusal();
    }
    let log = bridge.stop();
    let lines = log
        .iter()
        .filter(|line| line.contains("nothing listens"))
        .count();
    // Ten in five seconds, however long it took.
    let intervals = started.elapsed().as_secs() as usize / 5 + 1;
    assert!((1..=10 * intervals).contains(&lines), "{lines} lines");
    assert!(
        log.last().unwrap().contains("1000 without target"),
        "{log:#?}"
    );
}

/// Listens at a place whose queue is full: a SYN is dropped there, a unix connect has to wait.
fn full(kind: Kind) -> (Place, Vec<Socket>) {
    let place = Place::bound(kind);
    place.socket.listen(0).unwrap();
    // With 0 there is room for one.
    let waiting = vec![place.connect()];
    (place, waiting)
}

#[test]
fn queue_of_the_target_stays_full_client_is_reset_after_the_connect_timeout() {
    for (kind, word) in [
        (Kind::Tcp6, "no answer within 300ms"),
        (Kind::Tcp4, "no answer within 300ms"),
        (Kind::Unix, "its queue is full"),
    ] {
        let (target, _waiting) = full(kind);
        let bridge = Bridge::to(&target.text).variable("VSOCK_BRIDGE_CONNECT_TIMEOUT", "300ms");
        let started = Instant::now();
        expect_refused(Kind::Tcp6, bridge, &target.text, &[word]);
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}

#[test]
fn queue_of_a_unix_target_is_full_then_empties_client_is_served() {
    let (target, waiting) = full(Kind::Unix);
    let listener = Place::listening(Kind::Tcp6);
    let bridge = Bridge::to(&target.text)
        .arguments(&["--connect-timeout", "1h"])
        .listener(&listener)
        .start();
    let mut client = listener.connect();
    wait_for_dialing(&bridge);
    drop((target.accept(), waiting));
    ping(&mut client, &mut target.accept());
    drop(client);
    bridge.stop();
}

/// Lets clients come one after the other to a bridge whose target has a short queue and takes one in a while, and
/// checks that it takes all, in their order, in about the time that it needs.
fn expect_all_served_in_order(to: &Place, port: Option<&str>, queue: i32, clients: u32) {
    let pace = SERVED_IN / clients;
    let listener = Place::listening(Kind::Tcp6);
    to.socket.listen(queue).unwrap();
    let target = match port {
        None => to.text.clone(),
        Some(port) => format!("vsock-mux:{}:{port}", to.text),
    };
    let bridge = Bridge::to(&target)
        // The last one waits for longer.
        .arguments(&["--connect-timeout", "1s"])
        .listener(&listener)
        .start();
    let come = |number: u32| {
        let mut client = listener.connect();
        client.write_all(&number.to_be_bytes()).unwrap();
        client
    };
    let waiting: Vec<Socket> = (0..clients).map(come).collect();
    // The kernel drops a TCP request for which there is no room without a word: who comes a moment later may be faster.
    let is_taken = || listener.has_nobody_waiting() || !to.kind.is_tcp();
    eventually("all are taken", is_taken);
    let started = Instant::now();
    let serve = |_| {
        let mut server = to.accept();
        if let Some(port) = port {
            let mut request = vec![0; "CONNECT \n".len() + port.len()];
            server.read_exact(&mut request).unwrap();
            server.write_all(b"OK 1\n").unwrap();
        }
        let mut number = [0; 4];
        server.read_exact(&mut number).unwrap();
        // The server's own slowness, which is what the test is about.
        std::thread::sleep(pace);
        u32::from_be_bytes(number)
    };
    let served: Vec<u32> = (0..clients).map(serve).collect();
    let time = started.elapsed();
    // Before anybody has found that there is no room, those who come within a moment may overtake each other over TCP:
    // the kernel drops a request without a word, and handles others in another order while it is busy.
    let most = if to.kind.is_tcp() { 8 } else { 0 };
    let overtaken = served.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(overtaken <= most, "{served:?}");
    // Half as much again as alone on the machine, and what a busy one takes.
    assert!(time < SERVED_IN * 3 / 2 + 4 * SERVED_IN, "{time:?}");
    drop(waiting);
    let log = bridge.stop();
    let served = format!("{clients} connections served, 0 refused, 0 without target");
    assert!(log.last().unwrap().contains(&served), "{log:#?}");
}

/// The time that the server of those tests needs.
const SERVED_IN: Duration = Duration::from_secs(2);

#[test]
fn two_hundred_come_to_a_short_queue_that_moves_all_are_served_in_the_order_of_arrival() {
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            scope.spawn(move || expect_all_served_in_order(&Place::bound(kind), None, 5, 200));
        }
        scope.spawn(|| expect_all_served_in_order(&Place::bound(Kind::Unix), Some("445"), 5, 200));
    });
}

#[test]
fn fifty_come_to_a_queue_with_room_for_one_all_are_served_in_the_order_of_arrival() {
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            scope.spawn(move || expect_all_served_in_order(&Place::bound(kind), None, 0, 50));
        }
        scope.spawn(|| expect_all_served_in_order(&Place::bound(Kind::Unix), Some("445"), 0, 50));
    });
}

#[test]
fn the_first_of_those_that_wait_for_room_is_reset_the_next_is_served() {
    let (target, waiting) = full(Kind::Unix);
    let listener = Place::listening(Kind::Tcp6);
    let bridge = Bridge::to(&target.text)
        .arguments(&["--connect-timeout", "1h"])
        .listener(&listener)
        .start();
    let first = listener.connect();
    wait_for_dialing(&bridge);
    let mut next = listener.connect();
    eventually("it is taken", || listener.has_nobody_waiting());
    let before = bridge.descriptors();
    crate::common::place::reset(first);
    eventually("it is closed", || bridge.descriptors() < before);
    drop((target.accept(), waiting));
    ping(&mut next, &mut target.accept());
    drop(next);
    bridge.stop();
}

#[test]
fn thousands_wait_for_a_queue_that_stands_still_they_cost_no_time_and_are_reset_in_the_end() {
    let (target, _waiting) = full(Kind::Unix);
    let listener = Place::listening(Kind::Unix);
    let bridge = Bridge::to(&target.text)
        .arguments(&["--connect-timeout", "1h"])
        .listener(&listener)
        .start();
    let clients: Vec<Socket> = (0..1000).map(|_| listener.connect()).collect();
    let descriptors = || bridge.descriptors();
    eventually("all are taken", || descriptors() > 1000);
    // No event says that nothing happens.
    let before = bridge.cpu_time();
    std::thread::sleep(Duration::from_secs(2));
    let spent = bridge.cpu_time() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} in 2 s");
    drop((clients, bridge));
}

/// Waits until the bridge holds its one connection and no socket to the target: it was refused and waits.
fn wait_for_dialing(bridge: &Program) {
    let pattern = format!("/proc/{}/fd", bridge.pid());
    let sockets = || {
        let entries = std::fs::read_dir(&pattern).unwrap().flatten();
        let links = entries.flat_map(|entry| std::fs::read_link(entry.path()));
        links
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    };
    // The listener and the client.
    eventually("the target was tried", || sockets() == 2);
}

#[test]
fn target_comes_up_within_the_retry_window_client_is_served_with_what_it_sent_before() {
    for to in Kind::ALL {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::bound(to));
        let bridge = Bridge::to(&target.text)
            .variable("VSOCK_BRIDGE_CONNECT_RETRY", "1h")
            .listener(&listener)
            .start();
        let mut client = listener.connect();
        client.write_all(b"early").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        wait_for_dialing(&bridge);
        target.socket.listen(1).unwrap();
        let mut server = target.accept();
        assert_eq!(read_to_end(&mut server), (b"early".to_vec(), End::Clean));
        server.write_all(b"late").unwrap();
        drop(server);
        assert_eq!(read_to_end(&mut client), (b"late".to_vec(), End::Clean));
        bridge.stop();
    }
}

#[test]
fn target_stays_down_client_is_reset_after_the_retry_window() {
    let target = Place::bound(Kind::Tcp6);
    let bridge = Bridge::to(&target.text).arguments(&["--connect-retry", "300ms"]);
    let started = Instant::now();
    expect_refused(Kind::Tcp6, bridge, &target.text, &["nothing listens"]);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_target_that_is_silent_for_one_client_delays_no_other() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::bound(Kind::Tcp6));
    target.socket.listen(1).unwrap();
    let bridge = Bridge::to(&target.text)
        .arguments(&["--connect-timeout", "1h"])
        .listener(&listener)
        .start();
    let mut first = listener.connect();
    let mut served = target.accept();
    // Two fit into the queue, the third has to wait for an answer to its SYN.
    let _waiting: Vec<Socket> = (0..3).map(|_| listener.connect()).collect();
    ping(&mut first, &mut served);
    drop(bridge);
}

#[test]
fn name_that_resolves_client_is_served_at_whichever_address_answers() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let target = Place::bound_to(address);
        target.socket.listen(1).unwrap();
        let port = target.address.as_socket().unwrap().port();
        let listener = Place::listening(Kind::Tcp6);
        let bridge = Bridge::to(&format!("localhost:{port}"))
            .listener(&listener)
            .start();
        let mut client = listener.connect();
        if address.starts_with('[') && !names_ipv6_localhost() {
            skipped("localhost has no IPv6 address on this machine");
            continue;
        }
        ping(&mut client, &mut target.accept());
        drop(client);
        bridge.stop();
    }
}

/// Starts a program with that folder as /etc.
#[test]
fn name_has_a_silent_address_in_front_client_is_served_at_the_next_within_the_connect_timeout() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    let silent = Place::bound_to("127.0.0.1:0");
    silent.socket.listen(0).unwrap();
    let _waiting = silent.connect();
    let port = silent.address.as_socket().unwrap().port();
    let target = Place::bound_to(&format!("127.0.0.2:{port}"));
    target.socket.listen(1).unwrap();
    etc.write("nsswitch.conf", "hosts: files\n");
    etc.write("host.conf", "multi on\n");
    etc.write("hosts", "127.0.0.1 two.example\n127.0.0.2 two.example\n");
    let listener = Place::listening(Kind::Tcp6);
    let mut bridge = Bridge::to(&format!("two.example:{port}"))
        .arguments(&["--connect-timeout", "2s"])
        .wrapped(etc.wrapper())
        .listener(&listener)
        .start();
    bridge.wait_for_line("bridging");
    ping(&mut listener.connect(), &mut target.accept());
    bridge.stop();
}

#[test]
fn name_leads_elsewhere_and_nothing_listens_where_it_led_the_next_client_is_served_there() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    let target = Place::bound_to("127.0.0.3:0");
    let port = target.address.as_socket().unwrap().port();
    etc.write("nsswitch.conf", "hosts: files\n");
    for (retry, listener) in [("0s", Kind::Tcp6), ("1h", Kind::Unix)] {
        etc.write("hosts", "127.0.0.2 moving.example\n");
        let listener = Place::listening(listener);
        let mut bridge = Bridge::to(&format!("moving.example:{port}"))
            .arguments(&["--connect-retry", retry])
            .wrapped(etc.wrapper())
            .listener(&listener)
            .start();
        bridge.wait_for_line("bridging");
        etc.write("hosts", "127.0.0.3 moving.example\n");
        target.socket.listen(9).unwrap();
        let mut first = listener.connect();
        if retry == "0s" {
            assert_eq!(read_to_end(&mut first), (vec![], End::Reset));
        } else {
            ping(&mut first, &mut target.accept());
        }
        let moved = format!("moved from 127.0.0.2:{port} to 127.0.0.3:{port}");
        if retry == "0s" {
            bridge.wait_for_line(&moved);
        }
        for _ in 0..3 {
            ping(&mut listener.connect(), &mut target.accept());
        }
        drop(first);
        let log = bridge.stop();
        assert_eq!(log.iter().filter(|line| line.contains(&moved)).count(), 1);
    }
}

#[test]
fn name_leads_to_the_bridge_itself_by_now_it_is_not_followed() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    let listener = Place::listening(Kind::Tcp4);
    let port = listener.address.as_socket().unwrap().port();
    etc.write("nsswitch.conf", "hosts: files\n");
    etc.write("hosts", "127.0.0.2 moving.example\n");
    let mut bridge = Bridge::to(&format!("moving.example:{port}"))
        .wrapped(etc.wrapper())
        .listener(&listener)
        .start();
    bridge.wait_for_line("bridging");
    etc.write("hosts", "127.0.0.1 moving.example\n");
    listener.expect_refusal();
    bridge.wait_for_line("the new address is not used");
    listener.expect_refusal();
    bridge.stop();
}

fn names_ipv6_localhost() -> bool {
    use std::net::ToSocketAddrs;
    ("localhost", 1)
        .to_socket_addrs()
        .unwrap()
        .any(|address| address.is_ipv6())
}

#[test]
fn unix_path_is_missing_client_is_reset_and_the_line_asks_for_the_service() {
    let directory = own_folder();
    let path = directory.path().join("missing");
    let target = path.to_str().unwrap();
    expect_refused(
        Kind::Tcp6,
        Bridge::to(target),
        target,
        &["No such file", "is its service"],
    );
}

#[test]
fn unix_path_is_longer_than_an_address_client_is_served() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::far());
    target.socket.listen(1).unwrap();
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    for _ in 0..3 {
        ping(&mut listener.connect(), &mut target.accept());
    }
    bridge.stop();
}

#[test]
fn long_unix_path_fails_client_is_reset_and_the_line_says_why_as_for_a_short_one() {
    let target = Place::far();
    let refused = |target: &str, words: &[&str]| {
        expect_refused(Kind::Tcp6, Bridge::to(target), target, words);
    };
    refused(&target.text, &["nothing listens on that socket"]);
    let missing = target.text.replace("/sss", "/s/sss");
    refused(&missing, &["No such file", "is its service"]);
}

#[test]
fn long_unix_path_without_proc_client_is_reset_and_the_line_names_proc() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::far());
    target.socket.listen(1).unwrap();
    let Some(bridge) = Bridge::to(&target.text).with_hidden(&["/proc"]) else {
        return skipped("no mount namespaces here");
    };
    let mut bridge = bridge.listener(&listener).start();
    listener.expect_refusal();
    let line = bridge.wait_for_line("cannot connect");
    assert!(line.contains("over 107 bytes need /proc"), "{line}");
    bridge.stop();
}

#[test]
fn unix_socket_is_stale_client_is_reset_and_the_line_says_nothing_listens() {
    let mut stale = Place::listening(Kind::Unix);
    // Closed, but its path stays.
    stale.socket = stream(Kind::Unix);
    expect_refused(
        Kind::Tcp6,
        Bridge::to(&stale.text),
        &stale.text,
        &["nothing listens on that socket"],
    );
}

#[test]
fn unix_path_is_no_socket_client_is_reset() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let target = file.path().to_str().unwrap();
    expect_refused(
        Kind::Tcp6,
        Bridge::to(target),
        target,
        &["Connection refused"],
    );
}

#[test]
fn unix_socket_may_not_be_written_client_is_reset_and_the_line_names_the_permission() {
    use std::os::unix::fs::PermissionsExt;
    let target = Place::listening(Kind::Unix);
    let nobody = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(&target.text, nobody).unwrap();
    let bridge = Bridge::to(&target.text).without_root_rights();
    let Some(bridge) = bridge else {
        return skipped("root, and setpriv cannot take its rights away");
    };
    expect_refused(
        Kind::Tcp6,
        bridge,
        &target.text,
        &["Permission denied", "may this user write"],
    );
}
