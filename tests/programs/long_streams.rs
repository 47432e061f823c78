//! Streams that no 32-bit number counts. They take a minute: `make check-long` runs them.

use std::net::Shutdown;
use std::thread;

use crate::common::content::Content;
use crate::common::pair::{Accept, Pair};
use crate::common::place::Kind;

const MORE_THAN_4_GIB: u64 = 5 << 30;

#[test]
#[ignore = "takes a minute, or more without optimisation"]
fn more_than_4_gib_go_each_way_at_once_every_byte_arrives_and_is_counted() {
    let (there, back) = (Content::new(24), Content::new(25));
    for (from, to) in [(Kind::Tcp6, Kind::Tcp6), (Kind::Unix, Kind::Tcp6)] {
        let (client, server, ends) = Pair::new(Accept::No, from, to, &[]).split();
        thread::scope(|scope| {
            scope.spawn(|| {
                there.send(&mut &client, MORE_THAN_4_GIB);
                client.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| {
                back.send(&mut &server, MORE_THAN_4_GIB);
                server.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| there.expect_all(&mut &server, MORE_THAN_4_GIB));
            back.expect_all(&mut &client, MORE_THAN_4_GIB);
        });
        ends.expect_complete(MORE_THAN_4_GIB, MORE_THAN_4_GIB);
    }
}
