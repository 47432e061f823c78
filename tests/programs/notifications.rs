//! What systemd hears: ready, status, stopping, signs of life.

use crate::common::bridge::Bridge;
use crate::common::notifications::Notifications;
use crate::common::place::{Kind, Place, ping};
use crate::common::store::Store;

#[test]
fn systemd_hears_ready_status_and_stopping() {
    hears_ready_status_and_stopping(&Notifications::new());
}

#[test]
fn whoever_listens_at_an_abstract_name_or_a_long_path_hears_the_same() {
    hears_ready_status_and_stopping(&Notifications::abstract_one());
    hears_ready_status_and_stopping(&Notifications::far());
}

fn hears_ready_status_and_stopping(notifications: &Notifications) {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text)
        .listener(&listener)
        .variable("NOTIFY_SOCKET", &notifications.path)
        .start();
    // What is kept for the next process comes first.
    // A box whose other end has gone may still hold something.
    notifications.wait_for("FDPOLL=0");
    notifications.wait_for("BARRIER=1");
    notifications.wait_for("READY=1");
    notifications.wait_for("STATUS=0 connections open, 0 served, 0 refused, 0 without target");
    let (client, server) = (listener.connect(), target.accept());
    notifications.wait_for("STATUS=1 connection open (::1: 1), 0 served");
    drop((client, server));
    notifications.wait_for("STATUS=0 connections open, 1 served");
    bridge.stop();
    notifications.wait_for("STOPPING=1");
}

#[test]
fn systemd_hears_ready_of_a_single_connection() {
    let notifications = Notifications::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let client = listener.connect();
    let mut bridge = Bridge::to(&target.text)
        .descriptor(listener.accept())
        .variable("NOTIFY_SOCKET", &notifications.path)
        .start();
    notifications.wait_for("READY=1");
    drop((client, target.accept()));
    notifications.wait_for("STOPPING=1");
    assert_eq!(bridge.exit_code(), 0);
}

#[test]
fn the_watchdog_hears_from_an_idle_and_from_a_busy_bridge() {
    let notifications = Notifications::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text)
        .listener(&listener)
        .variable("NOTIFY_SOCKET", &notifications.path)
        .variable("WATCHDOG_USEC", "100000")
        .start();
    notifications.wait_for("WATCHDOG=1");
    let (mut client, mut server) = (listener.connect(), target.accept());
    ping(&mut client, &mut server);
    for _ in 0..3 {
        notifications.wait_for("WATCHDOG=1");
    }
    drop((client, server));
    bridge.stop();
}

#[test]
fn systemd_does_not_listen_the_bridge_serves_in_silence() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text)
        .listener(&listener)
        .variable("NOTIFY_SOCKET", "/nonexistent/notify")
        .variable("WATCHDOG_USEC", "1000")
        .start();
    ping(&mut listener.connect(), &mut target.accept());
    let lines = bridge.stop();
    assert!(
        lines.iter().all(|line| !line.contains("notify")),
        "{lines:#?}"
    );
}

/// A newer systemd says at the start whether it does, and closes what it refuses when it has time.
#[test]
fn systemd_keeps_nothing_it_is_not_asked_whether_it_does() {
    for (stored, is_kept) in [(None, false), (Some("512"), true)] {
        let store = Store::new();
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
        let mut bridge = Bridge::to(&target.text)
            .variable("NOTIFY_SOCKET", &store.path)
            .variable("LISTEN_PIDFDID", "7")
            .listener(&listener);
        if let Some(most) = stored {
            bridge = bridge.variable("FDSTORE", most);
        }
        let mut bridge = bridge.start();
        if !is_kept {
            bridge.wait_for_line("connections would not survive a crash");
        }
        ping(&mut listener.connect(), &mut target.accept());
        assert_eq!(store.has_any(), is_kept);
        bridge.stop();
    }
}

#[test]
fn systemd_is_busy_at_the_start_connections_are_kept_as_soon_as_it_reads() {
    let (store, wake) = Store::asleep();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text)
        .variable("NOTIFY_SOCKET", &store.path)
        .listener(&listener)
        .start();
    let line = bridge.wait_for_line("do not survive a crash until");
    assert!(line.contains("warning"), "{line}");
    let (mut client, mut server) = (listener.connect(), target.accept());
    ping(&mut client, &mut server);
    wake.send(()).unwrap();
    bridge.wait_for_line("systemd keeps connections from now on");
    ping(&mut client, &mut server);
}
