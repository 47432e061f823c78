//! Settings from options and environment, and what they do.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use crate::common::bridge::Bridge;
use crate::common::content::{End, read_to_end};
use crate::common::eventually;
use crate::common::pair::{Accept, Pair};
use crate::common::place::{Kind, Place, ping};
use socket2::Socket;

#[test]
fn every_option_can_come_from_the_environment() {
    let (listener, target) = (Place::listening(Kind::Tcp4), Place::listening(Kind::Tcp4));
    let variables = [
        ("TO", &*target.text),
        ("SOURCE", "127.0.0.88"),
        ("PREFIX", "fd00:1:2:3::/64"),
        ("ALLOW_CID", "3,7,100-200,host,web"),
        ("MAX_CONNECTIONS", "2"),
        ("MAX_CONNECTIONS_PER_PEER", "2"),
        ("CONNECT_TIMEOUT", "1min"),
        ("CONNECT_RETRY", "1min"),
        ("IDLE_TIMEOUT", "1h"),
        ("HALF_CLOSE_TIMEOUT", "1h"),
        ("EXIT_IDLE_TIME", "100ms"),
        ("DRAIN_TIMEOUT", "1h"),
        ("KEEPALIVE", "1h 30min"),
        ("VSOCK_BUFFER", "2MiB"),
        ("VSOCK_PACKET", "16KiB"),
        ("LOG", "debug"),
        ("NAMES", "web=3"),
    ];
    let mut client = listener.connect();
    let bridge = Bridge::bare().listener(&listener);
    let mut bridge = variables
        .iter()
        .fold(bridge, |bridge, (name, value)| {
            bridge.variable(&format!("VSOCK_BRIDGE_{name}"), value)
        })
        .start();
    let mut server = target.accept();
    ping(&mut client, &mut server);
    let source = server.peer_addr().unwrap().as_socket().unwrap().ip();
    assert_eq!(source.to_string(), "127.0.0.88");
    drop((client, server));
    bridge.wait_for_line("complete");
    assert_eq!(bridge.exit_code(), 0);
    let log = &bridge.log;
    // Of the list, on a listener that is not vsock.
    let warnings = log.iter().filter(|line| line.contains("warning"));
    assert_eq!(warnings.count(), 1, "{log:#?}");
    assert!(
        log.iter().any(|l| l.contains("fd00:1:2:3::/64")),
        "{log:#?}"
    );
}

/// Longer than epoll_wait(2) can wait at once.
#[test]
fn times_are_years_they_are_waited_for_without_work() {
    let limits = ["idle-timeout", "half-close-timeout", "connect-timeout"];
    let limits = limits.into_iter().chain(["exit-idle-time", "keepalive"]);
    let limits: Vec<String> = limits.map(|name| format!("--{name}=9years")).collect();
    let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    let (mut client, mut server, ends) =
        Pair::new(Accept::No, Kind::Tcp6, Kind::Tcp6, &limits).split();
    ping(&mut client, &mut server);
    client.shutdown(Shutdown::Write).unwrap();
    let before = ends.bridge.cpu_time();
    std::thread::sleep(Duration::from_millis(300));
    assert!(ends.bridge.cpu_time() - before < Duration::from_millis(150));
    server.write_all(b"late").unwrap();
    drop(server);
    assert_eq!(read_to_end(&mut client), (b"late".to_vec(), End::Clean));
    ends.expect_complete(1, 5);
}

#[test]
fn an_option_overrules_the_environment() {
    let (listener, target) = (Place::listening(Kind::Tcp4), Place::listening(Kind::Tcp4));
    let bridge = Bridge::to(&target.text)
        .variable("VSOCK_BRIDGE_TO", "[::1]:1")
        .listener(&listener)
        .start();
    ping(&mut listener.connect(), &mut target.accept());
    bridge.stop();
}

#[test]
fn a_list_of_machines_is_without_effect_it_is_one_warning() {
    for (from, list, warnings) in [
        (Kind::Unix, "3", 1),
        (Kind::Tcp6, "3,web", 1),
        (Kind::Tcp6, "any", 0),
    ] {
        let (listener, target) = (Place::listening(from), Place::listening(Kind::Unix));
        let bridge = Bridge::to(&target.text)
            .arguments(&["--names", "web=4"])
            .variable("VSOCK_BRIDGE_ALLOW_CID", list)
            .listener(&listener)
            .start();
        ping(&mut listener.connect(), &mut target.accept());
        let log = bridge.stop();
        let about = |line: &&String| line.contains("has no effect");
        assert_eq!(log.iter().filter(about).count(), warnings, "{log:#?}");
    }
}

#[test]
fn names_are_wrong_and_none_is_needed_it_is_one_warning_and_the_bridge_serves() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text)
        .variable("VSOCK_BRIDGE_NAMES", "web=3,db=4")
        .listener(&listener)
        .start();
    let line = bridge.wait_for_line("VSOCK_BRIDGE_NAMES");
    assert!(
        line.contains("warning") && line.contains("spaces, not commas"),
        "{line}"
    );
    ping(&mut listener.connect(), &mut target.accept());
    let log = bridge.stop();
    let warnings = log.iter().filter(|line| line.contains("warning"));
    assert_eq!(warnings.count(), 1, "{log:#?}");
}

#[test]
fn limits_and_times_are_infinity_the_bridge_serves_without_a_warning() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let options = [
        "max-connections",
        "max-connections-per-peer",
        "connect-timeout",
        "connect-retry",
        "drain-timeout",
        "keepalive",
    ];
    let bridge = Bridge::to(&target.text)
        .arguments(&options.map(|option| format!("--{option}=infinity")))
        .listener(&listener)
        .start();
    ping(&mut listener.connect(), &mut target.accept());
    let log = bridge.stop();
    assert!(!log.iter().any(|line| line.contains("warning")), "{log:#?}");
}

#[test]
fn quiet_says_nothing_and_verbose_more() {
    let lines = |arguments: &[&str]| {
        let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
        let bridge = Bridge::to(&target.text)
            .arguments(arguments)
            .listener(&listener)
            .start();
        drop((listener.connect(), target.accept()));
        let log = bridge.stop();
        // Said only when the signal is seen before the ends of the connection.
        let is_sure = |line: &&String| !line.contains("stopping:");
        log.iter().filter(is_sure).count()
    };
    assert_eq!(lines(&["-q"]), 0);
    assert_eq!(lines(&[]), 3);
    assert!(lines(&["-v"]) > 3);
}

#[test]
fn source_is_an_address_server_sees_it() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp4));
    let bridge = Bridge::to(&target.text)
        .arguments(&["--source", "127.0.0.77"])
        .listener(&listener)
        .start();
    let mut client = listener.connect();
    let mut server = target.accept();
    ping(&mut client, &mut server);
    let source = server.peer_addr().unwrap().as_socket().unwrap().ip();
    assert_eq!(source.to_string(), "127.0.0.77");
    drop((client, server));
    bridge.stop();
}

/// The client that starts the bridge is connected before the bridge can set anything on the listener.
#[test]
fn client_came_before_the_bridge_keepalive_is_on_both_tcp_legs() {
    let arguments = ["--keepalive", "60s"];
    let pairs = Accept::BOTH.map(|accept| Pair::new(accept, Kind::Tcp4, Kind::Tcp4, &arguments));
    for pair in &pairs {
        expect_timer(&pair.client, KEEPALIVE);
        expect_timer(&pair.server, KEEPALIVE);
    }
}

#[test]
fn client_comes_to_the_bridge_keepalive_is_on_both_tcp_legs_unless_it_is_0() {
    let ends = [
        ("60s", KEEPALIVE),
        ("60", KEEPALIVE),
        ("0", NO_TIMER),
        ("infinity", NO_TIMER),
    ]
    .map(|(keepalive, timer)| {
        let (listener, target) = (Place::listening(Kind::Tcp4), Place::listening(Kind::Tcp4));
        let bridge = Bridge::to(&target.text)
            .variable("VSOCK_BRIDGE_KEEPALIVE", keepalive)
            .listener(&listener)
            .start();
        // Served only by a loop, which has set the options before.
        ping(&mut listener.connect(), &mut target.accept());
        (bridge, listener.connect(), target.accept(), timer)
    });
    // All at once: it is set when a connection is ten seconds old.
    for (_bridge, client, server, timer) in &ends {
        expect_timer(client, timer);
        expect_timer(server, timer);
    }
}

/// Timers as proc_net_tcp(5) has them.
const NO_TIMER: &str = "00";
const KEEPALIVE: &str = "02";

/// Waits for a timer on the end that the bridge has of this connection.
fn expect_timer(socket: &Socket, timer: &str) {
    let bridge = socket.peer_addr().unwrap().as_socket().unwrap();
    eventually("the timer is as it was asked for", || {
        timer_of(&bridge, socket) == timer
    });
}

/// The timer that runs on the other end of a connection.
fn timer_of(local: &SocketAddr, other: &Socket) -> String {
    let port = other.local_addr().unwrap().as_socket().unwrap().port();
    let ends = (format!(":{:04X}", local.port()), format!(":{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&ends.0) && row[2].ends_with(&ends.1));
    row.map_or(String::new(), |row| row[5][..2].to_owned())
}
