//! Clients that read slowly: what the kernel has for them is on its way, though the bridge is done with it.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::bridge::Bridge;
use crate::common::content::Content;
use crate::common::eventually;
use crate::common::place::{Kind, Place, ping, stream};
use socket2::Socket;
use vsock_bridge::testing::unacknowledged_bytes;

/// More than a receiver of the smallest buffer has room for, and less than a sender has.
const COUNT: u64 = 2_000_003;

/// A client without room for much.
fn connect(listener: &Place) -> Socket {
    let client = stream(listener.kind);
    client.set_recv_buffer_size(4096).unwrap();
    client.connect(&listener.address).unwrap();
    client
}

/// Sends all and the end, and waits until the bridge has both.
fn send(content: &Content, server: &mut Socket) {
    content.send(server, COUNT);
    server.shutdown(Shutdown::Write).unwrap();
    eventually("the bridge has taken all", || {
        unacknowledged_bytes(server.as_fd()).unwrap() == 0
    });
}

/// A server that has closed answers what still comes with a reset. What it sent before is on its way to a slow client.
#[test]
fn server_sends_and_closes_client_sends_and_reads_later_it_gets_all_and_the_end() {
    let content = Content::new(30);
    for to in Kind::ALL {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(to));
        let bridge = Bridge::to(&target.text).arguments(&["-v"]);
        let mut bridge = bridge.listener(&listener).start();
        let mut client = connect(&listener);
        let mut server = target.accept();
        send(&content, &mut server);
        drop(server);
        client.write_all(b"too late").unwrap();
        // The bridge has been at the first connection when it is done with the second.
        ping(&mut listener.connect(), &mut target.accept());
        content.expect_all(&mut client, COUNT);
        drop(client);
        bridge.wait_for_line(" aborted by the target: ");
        bridge.stop();
    }
}

/// Reads for longer than the limit, a little at a time, and then the rest.
fn read_slowly(content: &Content, client: &mut Socket, limit: Duration) {
    let mut slow = 0;
    let until = Instant::now() + 2 * limit;
    while Instant::now() < until {
        content.expect_from(client, slow, 4096);
        slow += 4096;
        thread::sleep(Duration::from_millis(20));
    }
    assert!(slow < COUNT / 2, "the kernel had nothing left to send");
    content.expect_from(client, slow, COUNT - slow);
}

#[test]
fn a_client_reads_slowly_for_longer_than_the_limits_it_gets_all_then_they_pass() {
    let limit = Duration::from_secs(2);
    thread::scope(|scope| {
        for option in ["--idle-timeout", "--half-close-timeout"] {
            scope.spawn(move || {
                let content = Content::new(31);
                let (listener, target) =
                    (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
                let bridge = Bridge::to(&target.text).arguments(&["-v", option, "2s"]);
                let mut bridge = bridge.listener(&listener).start();
                let mut client = connect(&listener);
                let mut server = target.accept();
                send(&content, &mut server);
                read_slowly(&content, &mut client, limit);
                bridge.wait_for_line(option);
                bridge.stop();
            });
        }
    });
}
