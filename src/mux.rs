//! The one line each way of hybrid vsock: `CONNECT port`, answered by `OK port`.
//!
//! Firecracker, Cloud Hypervisor and vhost-device-vsock give the machine a unix socket in place of AF_VSOCK
//! (firecracker docs/vsock.md). What follows the answer belongs to the stream, so it is read byte by byte:
//! about fifteen short reads once, and no byte can be eaten.

use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::{read, write};

use crate::error::{Error, Result};
use crate::stream::Stream;
use crate::vsock::VsockPort;

/// `OK `, ten digits and the newline; anything longer is not this protocol.
const ANSWER_MAX: usize = 32;

/// What the other end says once the port has accepted.
///
/// It cannot be found out: a service of the VM may begin with `OK`, too, or wait for its client to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `OK port`.
    #[default]
    Ok,
    /// Nothing, as monitors did before 2020: what comes first is the service's.
    None,
}

impl FromStr for Answer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Answer> {
        match text {
            "ok" => Ok(Answer::Ok),
            "none" => Ok(Answer::None),
            _ => Err(Error::invalid("answer", text, "expected ok or none")),
        }
    }
}

/// How far the exchange has come.
#[derive(Debug)]
pub(crate) struct Handshake {
    request: Vec<u8>,
    sent: usize,
    expected: Answer,
    answer: Vec<u8>,
}

/// What has come out of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The other end has not said all yet.
    Waiting,
    /// The port accepted: from here on the stream is the connection.
    Accepted,
    /// Nothing listens on the port, or there is no VM: the other end closed. Worth a retry.
    Refused,
    /// The other end does not speak this protocol.
    Garbage(String),
}

impl Handshake {
    /// Begins the exchange for a port of the VM.
    pub(crate) fn new(port: VsockPort, expected: Answer) -> Handshake {
        Handshake {
            request: format!("CONNECT {port}\n").into_bytes(),
            sent: 0,
            expected,
            answer: Vec::new(),
        }
    }

    /// Goes as far as the stream allows without blocking.
    pub(crate) fn advance(&mut self, stream: &Stream) -> std::result::Result<Progress, Errno> {
        while self.sent < self.request.len() {
            match write(stream.output()?, &self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => return Ok(Progress::Waiting),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(Progress::Refused),
                Err(error) => return Err(error),
            }
        }
        if self.expected == Answer::None {
            return Ok(Progress::Accepted);
        }
        let mut byte = [0];
        loop {
            match read(stream.input(), &mut byte) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(Progress::Refused),
                Ok(_) => match self.take(byte[0]) {
                    Progress::Waiting => {}
                    progress => return Ok(progress),
                },
                Err(Errno::EAGAIN) => return Ok(Progress::Waiting),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next byte of the answer.
    pub(crate) fn take(&mut self, byte: u8) -> Progress {
        self.answer.push(byte);
        let is_ok = |line: &[u8]| {
            line.strip_prefix(b"OK ")
                .is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit))
        };
        match self.answer.strip_suffix(b"\n") {
            Some(line) if is_ok(line) => Progress::Accepted,
            None if self.answer.len() < ANSWER_MAX => Progress::Waiting,
            _ => Progress::Garbage(format!(
                "expected `OK port`, got \"{}\" (if the monitor sends no such line, set --mux-answer none)",
                self.answer.escape_ascii()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &[u8]) -> (Progress, usize) {
        let mut handshake = Handshake::new(22u16.into(), Answer::Ok);
        for (index, byte) in text.iter().enumerate() {
            match handshake.take(*byte) {
                Progress::Waiting => {}
                progress => return (progress, index + 1),
            }
        }
        (Progress::Waiting, text.len())
    }

    #[test]
    fn the_request_is_one_line() {
        assert_eq!(
            Handshake::new(22u16.into(), Answer::Ok).request,
            b"CONNECT 22\n"
        );
    }

    #[test]
    fn bytes_behind_the_answer_are_left_in_the_stream() {
        assert_eq!(answer(b"OK 1073741824\nSSH-2.0-"), (Progress::Accepted, 14));
    }

    #[test]
    fn anything_but_ok_and_a_number_is_garbage() {
        for text in [
            &b"ERR 1\n"[..],
            b"OK\n",
            b"OK \n",
            b"OK x\n",
            b"\n",
            b"ok 1\n",
            b"OK 1 \n",
            &[b'1'; 40],
        ] {
            assert!(matches!(answer(text).0, Progress::Garbage(_)), "{text:?}");
        }
    }

    #[test]
    fn an_answer_without_end_is_cut_at_the_limit() {
        assert_eq!(answer(&[b'9'; 1000]).1, ANSWER_MAX);
    }
}
