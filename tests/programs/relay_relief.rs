//! More than one thread can do: another one helps, and nothing else is different.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::bridge::{Bridge, wakeups};
use crate::common::content::Content;
use crate::common::place::{Kind, Place, ping};
use crate::common::program::Program;
use crate::common::{eventually, skipped};
use nix::sys::signal::Signal;
use socket2::Socket;

/// Together they keep the bridge busy all the time.
const CONNECTIONS: usize = 48;
const CONTENT_BYTES: u64 = 100_000;

/// Has all connections talk until another thread helps, and then lets something happen.
fn overload(
    arguments: &[&str],
    act: impl FnOnce(&Program),
    each: impl Fn(Socket, Socket) + Sync,
) -> Option<Program> {
    if thread::available_parallelism().is_ok_and(|count| count.get() == 1) {
        skipped("one processor has no use for another thread");
        return None;
    }
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    // The clients come first, so there is always something to do for it when its turn comes.
    let bridge = Bridge::to(&target.text)
        .wrapped("nice -n 19".into())
        .listener(&listener)
        .arguments(arguments)
        .start();
    let is_enough = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when this test fails.
        let end = End(&is_enough);
        for _ in 0..CONNECTIONS {
            let (mut client, mut server) = (listener.connect(), target.accept());
            // Whose connection it is that was accepted only its first byte tells; each pair has one to itself.
            let (is_enough, each) = (&is_enough, &each);
            scope.spawn(move || {
                while !is_enough.load(Ordering::Relaxed) {
                    ping(&mut client, &mut server);
                }
                each(client, server);
            });
        }
        eventually("another thread helps", || {
            wakeups(&bridge, "relief").is_some()
        });
        act(&bridge);
        drop(end);
    });
    Some(bridge)
}

/// Ends the talk when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Content in both directions, whose ends are the ends of the connection.
fn exchange(client: Socket, server: Socket) {
    let content = Content::new(91);
    for (mut from, mut to) in [(&client, &server), (&server, &client)] {
        thread::scope(|scope| {
            scope.spawn(|| content.send(&mut from, CONTENT_BYTES));
            content.expect(&mut to, CONTENT_BYTES);
        });
    }
}

#[test]
fn more_than_one_thread_can_do_another_one_helps_and_every_byte_arrives() {
    let Some(bridge) = overload(&[], |_| (), exchange) else {
        return;
    };
    let log = bridge.stop();
    let last = log.last().unwrap();
    assert!(
        last.contains(&format!("{CONNECTIONS} connections served")),
        "{last}"
    );
}

#[test]
fn sigterm_while_another_thread_helps_all_finish_and_exit_0() {
    let stop = |bridge: &Program| bridge.signal(Signal::SIGTERM);
    let Some(mut bridge) = overload(&["--drain-timeout", "1h"], stop, exchange) else {
        return;
    };
    assert_eq!(bridge.exit_code(), 0, "{:#?}", bridge.log);
    let complete = bridge.log.iter().filter(|line| line.contains("complete: "));
    assert_eq!(complete.count(), CONNECTIONS);
}

#[test]
fn when_there_is_little_to_do_the_main_loop_does_it_alone_again() {
    let talking = Mutex::new(Vec::new());
    let keep = |client, server| talking.lock().unwrap().push((client, server));
    let Some(bridge) = overload(&[], |_| (), keep) else {
        return;
    };
    let mut talking = talking.into_inner().unwrap();
    assert_eq!(talking.len(), CONNECTIONS);
    eventually("the main loop has all of them", || {
        let before = wakeups(&bridge, "relief");
        talking
            .iter_mut()
            .for_each(|(client, server)| ping(client, server));
        wakeups(&bridge, "relief") == before
    });
    drop(bridge);
}
