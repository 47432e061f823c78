//! The target's side of a half-close: reads to the end, lets time pass, then answers. It sleeps, so it has a thread.

use std::io::{Read, Write};
use std::time::Duration;

use crate::pattern::Start;
use crate::session::Session;
use crate::socket;

/// Bytes of the answer.
pub const ANSWER_BYTES: usize = 4096;

/// How long an inbound flow may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Serves the session in a new thread, which ends within the limit.
pub fn serve_in_thread(session: Session) {
    std::thread::spawn(move || serve(session));
}

/// A connection that the relay has dropped by then is noticed at the peer, so nothing is reported here but bytes.
fn serve(session: Session) {
    let Some(delay_ms) = session.answer_delay_ms() else {
        return;
    };
    let (mut file, board, stream, mut received) = session.into_parts();
    if socket::block_with_limit(&file, END_LIMIT).is_err() {
        return;
    }
    let mut buffer = [0; ANSWER_BYTES];
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        board.add_wrong(Start::inbound(stream).count_wrong(received, &buffer[..length]));
        received += length as u64;
    }
    std::thread::sleep(Duration::from_millis(delay_ms.into()));
    let _ = file.write_all(Start::outbound(stream).bytes_at(0, ANSWER_BYTES));
}
