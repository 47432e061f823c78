//! Listening without systemd, `--listen`: every family, and what becomes of it all when the bridge leaves or is killed.

use nix::sys::signal::Signal;
use socket2::Socket;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place, ping};
use crate::common::spot::{Spot, alone, expect_refusal, listening};

#[test]
fn listeners_of_every_family_each_is_served_by_options_and_by_the_variable() {
    for is_variable in [false, true] {
        let target = Place::listening(Kind::Tcp6);
        let spots: Vec<Spot> = Kind::ALL
            .map(Spot::new)
            .into_iter()
            .chain([Spot::path("other"), Spot::abstract_name()])
            .collect();
        let texts: Vec<&str> = spots.iter().map(|spot| &*spot.text).collect();
        let bridge = match is_variable {
            true => alone(&target).variable("VSOCK_BRIDGE_LISTEN", texts.join(" ")),
            false => {
                (texts.iter()).fold(alone(&target), |b, text| b.arguments(&["--listen", text]))
            }
        };
        let mut bridge = bridge.start();
        for text in &texts {
            bridge.wait_for_line(&format!("bridging {text} to {}", target.text));
        }
        for spot in &spots {
            ping(&mut spot.connect(), &mut target.accept());
        }
        let log = bridge.stop();
        assert!(
            log.iter()
                .any(|line| line.contains("stopped: 5 connections served")),
            "{log:#?}"
        );
        for spot in &spots {
            assert!(spot.is_refused(), "{}", spot.text);
            assert!(!spot.file().exists(), "{}", spot.text);
        }
    }
}

#[test]
fn an_option_overrules_the_variable() {
    let target = Place::listening(Kind::Tcp6);
    let (given, overruled) = (Spot::new(Kind::Unix), Spot::new(Kind::Unix));
    let mut bridge = alone(&target)
        .variable("VSOCK_BRIDGE_LISTEN", &overruled.text)
        .arguments(&["--listen", &format!("unix:{}", given.text)])
        .start();
    bridge.wait_for_line(&format!("bridging {}", given.text));
    assert!(!overruled.file().exists());
    bridge.stop();
}

/// What is meant for another process, or comes from a shell that systemd has started, is not in the way.
#[test]
fn sockets_are_passed_to_another_process_it_listens_by_itself() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Tcp6);
    for change in [
        (|b: Bridge| b.without_pid().variable("LISTEN_FDS", "1")) as fn(Bridge) -> Bridge,
        |b| b.pid("1").variable("LISTEN_FDS", "3"),
        |b| b.variable("LISTEN_FDS", "0"),
    ] {
        let bridge = Bridge::to(&target.text).arguments(&["--listen", &spot.text]);
        let mut bridge = change(bridge).start();
        bridge.wait_for_line("bridging");
        ping(&mut spot.connect(), &mut target.accept());
        bridge.stop();
    }
}

#[test]
fn another_bridge_has_the_socket_it_goes_on_without_a_word() {
    let target = Place::listening(Kind::Tcp6);
    for kind in Kind::ALL {
        let spot = Spot::new(kind);
        let bridge = listening(&target, &spot);
        expect_refusal(&spot, &["another program listens there"]);
        ping(&mut spot.connect(), &mut target.accept());
        let log = bridge.stop();
        assert!(
            log.iter()
                .any(|line| line.contains("stopped: 1 connection served, 0 refused")),
            "{log:#?}"
        );
    }
}

#[test]
fn it_is_killed_with_a_connection_open_the_next_one_listens_at_the_same_place() {
    for kind in Kind::ALL {
        let (target, spot) = (Place::listening(kind), Spot::new(kind));
        for _ in 0..3 {
            let mut bridge = listening(&target, &spot);
            let (mut client, mut server) = (spot.connect(), target.accept());
            ping(&mut client, &mut server);
            bridge.signal(Signal::SIGKILL);
            assert_eq!(bridge.exit_code(), 128 + 9);
            assert_eq!(spot.file().exists(), kind == Kind::Unix);
        }
        listening(&target, &spot).stop();
    }
}

/// Else a restart would take as long as the slowest connection.
#[test]
fn sigterm_during_a_transfer_it_finishes_while_the_next_bridge_listens_at_the_same_place() {
    let content = Content::new(71);
    for kind in Kind::ALL {
        let (target, spot) = (Place::listening(kind), Spot::new(kind));
        let arguments = ["--listen", &spot.text, "--drain-timeout", "1h"];
        let mut first = alone(&target).arguments(&arguments).start();
        first.wait_for_line("bridging");
        let (mut client, mut server) = (spot.connect(), target.accept());
        ping(&mut client, &mut server);
        first.signal(Signal::SIGTERM);
        first.wait_for_line("stopping: 1 connection may go on for 1h");
        assert!(spot.is_refused(), "{}", spot.text);
        let second = listening(&target, &spot);
        ping(&mut spot.connect(), &mut target.accept());
        content.send(&mut client, 100_000);
        drop(client);
        content.expect_all(&mut server, 100_000);
        drop(server);
        assert_eq!(first.exit_code(), 0, "{:#?}", first.log);
        // The socket of the second one was not taken away.
        ping(&mut spot.connect(), &mut target.accept());
        second.stop();
        assert!(!spot.file().exists());
    }
}

#[test]
fn nobody_for_the_idle_time_exit_0_and_nothing_is_left() {
    for kind in Kind::ALL {
        let (target, spot) = (Place::listening(kind), Spot::new(kind));
        let mut bridge = alone(&target)
            .arguments(&["--listen", &spot.text, "--exit-idle-time", "300ms"])
            .start();
        bridge.wait_for_line("bridging");
        let (mut client, mut server) = (spot.connect(), target.accept());
        ping(&mut client, &mut server);
        drop(client);
        assert_eq!(read_to_end(&mut server), (vec![], End::Clean));
        drop(server);
        assert_eq!(bridge.exit_code(), 0, "{:#?}", bridge.log);
        assert!(spot.is_refused());
        assert!(!spot.file().exists());
    }
}

/// The queue is as long as the kernel allows, which is more than that everywhere.
#[test]
fn a_hundred_come_while_it_stands_still_each_is_served() {
    for kind in Kind::ALL {
        let (target, spot) = (Place::listening(Kind::Unix), Spot::new(kind));
        let bridge = listening(&target, &spot);
        bridge.signal(Signal::SIGSTOP);
        let clients: Vec<Socket> = (0..100).map(|_| spot.connect()).collect();
        bridge.signal(Signal::SIGCONT);
        for _ in &clients {
            drop(target.accept());
        }
        for client in clients {
            assert_eq!(read_to_end(&mut &client).0, b"");
        }
        bridge.stop();
    }
}
