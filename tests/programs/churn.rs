//! Many short connections from one address: none fails, and neither descriptors nor memory grow.
//!
//! A million take too long for each run: `VSOCK_BRIDGE_TEST_CONNECTIONS=1000000 cargo test --release --test programs
//! churn::` makes them.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::common::bridge::Bridge;
use crate::common::eventually;
use crate::common::place::{Kind, Place};
use crate::common::program::Program;

const CONNECTIONS: usize = 20_000;
const CLIENTS: usize = 4;
/// What the allocator may take for places in tables that were not in use before.
const GROWTH_MAX: usize = 512 * 1024;

/// Descriptors of threads and pipes, which come and go with the load.
const SPARE: usize = 64;

#[test]
fn twenty_thousand_short_connections_leave_no_descriptor_and_no_memory() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    let wanted = std::env::var("VSOCK_BRIDGE_TEST_CONNECTIONS");
    let wanted = wanted.map_or(CONNECTIONS, |text| text.parse().unwrap());
    let first = wanted / 4;
    churn(&listener, &target, first);
    let (descriptors, memory) = (resting_descriptors(&bridge), resident_bytes(&bridge));
    churn(&listener, &target, wanted - first);
    let after = resting_descriptors(&bridge);
    assert!(after <= descriptors + SPARE, "{after} descriptors");
    let growth = resident_bytes(&bridge).saturating_sub(memory);
    assert!(growth <= GROWTH_MAX, "{growth} bytes more than before");
    let log = bridge.stop();
    let last = log.last().unwrap();
    let served = format!("{wanted} connections served");
    assert!(last.contains(&served), "{last}");
}

/// Makes connections from all clients at once, each with a request of four bytes and its answer.
fn churn(listener: &Place, target: &Place, count: usize) {
    let (accepted, made) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let next = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed) < count;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while next(&accepted) {
                    let (mut server, mut request) = (target.accept(), [0; 4]);
                    server.read_exact(&mut request).unwrap();
                    server.write_all(&request).unwrap();
                    assert_eq!(server.read(&mut request).unwrap(), 0);
                }
            });
            scope.spawn(|| {
                while next(&made) {
                    let (mut client, mut answer) = (listener.connect(), [0; 4]);
                    client.write_all(b"ping").unwrap();
                    client.read_exact(&mut answer).unwrap();
                    assert_eq!(&answer, b"ping");
                }
            });
        }
    });
}

/// Counts its descriptors once the last connection is closed: those of the listener, of the loop and of its threads.
fn resting_descriptors(bridge: &Program) -> usize {
    let sockets = || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", bridge.pid())).unwrap();
        let links = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        let is_socket = |path: &std::path::PathBuf| path.to_string_lossy().starts_with("socket:");
        links.filter(is_socket).count()
    };
    eventually("only the listener is left", || sockets() == 1);
    bridge.descriptors()
}

fn resident_bytes(bridge: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<usize>().unwrap() * 1024
}
