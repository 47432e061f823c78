//! A tunnel through a gateway to a port of another machine: CONNECT of HTTP as a client speaks it (RFC 9110, section 9.3.6).
//!
//! What follows the answer belongs to the stream: only bytes of the answer are taken from the socket.

use httparse::EMPTY_HEADER;
use nix::errno::Errno;
use nix::unistd::write;

use crate::endpoint::Endpoint;
use crate::names::SUFFIX;
use crate::stream::Stream;

/// Bytes of an answer; what is longer is none.
const ANSWER_MAX: usize = 8192;
/// Fields that it may have.
const FIELDS_MAX: usize = 64;
/// Bytes of the reason that are told.
const WHY_MAX: usize = 500;

/// How far the exchange has come.
#[derive(Debug)]
pub(crate) struct Handshake {
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

/// What has come out of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The gateway has not said all yet.
    Waiting,
    /// From here on the stream is the connection.
    Accepted,
    /// The gateway does not lead there.
    Denied {
        /// Its reason, in one line.
        why: String,
        /// Another try would be told the same.
        is_final: bool,
    },
    /// This is no gateway, as it has answered that.
    Garbage(String),
}

/// What an answer comes to so far.
enum Answer {
    Partial,
    /// The stream begins behind so many bytes.
    Connected(usize),
    /// So many bytes say why not.
    Denied(usize, Progress),
    Garbage(String),
}

impl Handshake {
    /// Begins the exchange; none for an address that names no machine.
    pub(crate) fn new(asked: &Endpoint) -> Option<Handshake> {
        let host = match asked {
            Endpoint::Vsock(addr) => format!("{}{SUFFIX}:{}", addr.cid?, addr.port),
            Endpoint::VsockName { name, port } => format!("{name}{SUFFIX}:{port}"),
            _ => return None,
        };
        Some(Handshake {
            request: format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
            sent: 0,
            answer: Vec::new(),
        })
    }

    /// Goes as far as the stream allows without blocking.
    pub(crate) fn advance(&mut self, stream: &Stream) -> Result<Progress, Errno> {
        while self.sent < self.request.len() {
            match write(stream.output()?, &self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => return Ok(Progress::Waiting),
                Err(Errno::EINTR) => {}
                // It may have said why before it closed.
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.sent = self.request.len(),
                Err(error) => return Err(error),
            }
        }
        let mut bytes = [0; 1024];
        loop {
            match stream.peek(&mut bytes) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(self.ended()),
                Ok(count) => {
                    let (taken, progress) = self.take(&bytes[..count]);
                    stream.discard(taken)?;
                    if progress != Progress::Waiting {
                        return Ok(progress);
                    }
                }
                Err(Errno::EAGAIN) => return Ok(Progress::Waiting),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes bytes that have come, as far as they are the answer's; returns how many those are.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, Progress) {
        let before = self.answer.len();
        self.answer.extend_from_slice(bytes);
        let all = bytes.len();
        match self.read() {
            Answer::Connected(length) => {
                self.answer.truncate(length);
                (length.saturating_sub(before), Progress::Accepted)
            }
            Answer::Denied(length, denied) if self.answer.len() >= length.min(ANSWER_MAX) => {
                (all, denied)
            }
            Answer::Garbage(problem) => (all, Progress::Garbage(problem)),
            Answer::Partial | Answer::Denied(..) if self.answer.len() > ANSWER_MAX => {
                let problem = format!("more than {ANSWER_MAX} bytes");
                (all, Progress::Garbage(problem))
            }
            Answer::Partial | Answer::Denied(..) => (all, Progress::Waiting),
        }
    }

    /// Says what it means that no more will come.
    pub(crate) fn ended(&self) -> Progress {
        match self.read() {
            Answer::Denied(_, denied) => denied,
            Answer::Garbage(problem) => Progress::Garbage(problem),
            Answer::Partial | Answer::Connected(_) => Progress::Denied {
                why: "it has closed without an answer".to_owned(),
                is_final: false,
            },
        }
    }

    fn read(&self) -> Answer {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.answer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Answer::Partial,
            Err(error) => {
                let shown = self.answer.get(..40).unwrap_or(&self.answer);
                return Answer::Garbage(format!("\"{}\" ({error})", shown.escape_ascii()));
            }
        };
        let status = response.code.unwrap_or_default();
        if (200..300).contains(&status) {
            return Answer::Connected(length);
        }
        let body_bytes = (response.headers.iter())
            .find(|field| field.name.eq_ignore_ascii_case("content-length"))
            .and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse().ok())
            .unwrap_or(usize::MAX);
        let reason = format!("{status} {}", response.reason.unwrap_or_default());
        let why = Some(line(&self.answer[length..])).filter(|line| is_reason(status, line));
        // Bad Gateway, Service Unavailable, Gateway Timeout (RFC 9110, section 15.6): later it may be another.
        let is_final = !(502..=504).contains(&status);
        let denied = match why {
            None if is_final => Progress::Garbage(reason),
            why => Progress::Denied {
                why: why.unwrap_or(reason),
                is_final,
            },
        };
        Answer::Denied(length.saturating_add(body_bytes), denied)
    }
}

/// Returns whether a line of a body is why a gateway does not lead there. A web server has a page, or says that it has none, or
/// what its status means.
fn is_reason(status: u16, line: &str) -> bool {
    let is_of_gateway = matches!(status, 400 | 403 | 407 | 429 | 500..);
    let is_page = line.starts_with(['<', '{']) || line.starts_with(&status.to_string());
    is_of_gateway && !is_page && !line.is_empty()
}

/// Returns the first line of a body, without what a terminal would obey.
fn line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..WHY_MAX).unwrap_or(body));
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handshake() -> Handshake {
        Handshake::new(&"vsock:4:5432".parse().unwrap()).unwrap()
    }

    /// What an answer comes to that arrives in parts, then the end; and how many bytes were taken.
    fn answer(bytes: &[u8], part: usize) -> (Progress, usize) {
        let mut handshake = handshake();
        let mut taken = 0;
        while taken < bytes.len() {
            let end = bytes.len().min(taken + part);
            let (count, progress) = handshake.take(&bytes[taken..end]);
            taken += count;
            if progress != Progress::Waiting {
                return (progress, taken);
            }
        }
        (handshake.ended(), taken)
    }

    const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

    #[test]
    fn the_request_is_in_authority_form() {
        assert_eq!(
            handshake().request.escape_ascii().to_string(),
            r"CONNECT 4.vsock:5432 HTTP/1.1\r\nHost: 4.vsock:5432\r\n\r\n"
        );
        let by_name = Handshake::new(&"vsock:db:22".parse().unwrap()).unwrap();
        assert!(by_name.request.starts_with(b"CONNECT db.vsock:22 "));
    }

    #[test]
    fn bytes_behind_the_answer_are_left_in_the_stream() {
        let bytes = [CONNECTED, b"SSH-2.0-OpenSSH\r\n\r\n"].concat();
        for part in 1..=bytes.len() {
            assert_eq!(answer(&bytes, part), (Progress::Accepted, CONNECTED.len()));
        }
    }

    #[test]
    fn the_reason_of_a_refusal_is_its_first_line() {
        for (bytes, why, is_final) in [
            (
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nno rule\n",
                "no rule",
                true,
            ),
            (
                "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\na\x1b[m\nb",
                "a[m",
                false,
            ),
            ("HTTP/1.1 504 Late\r\n\r\n", "504 Late", false),
            (
                "HTTP/1.1 407 Who\r\n\r\nname yourself",
                "name yourself",
                true,
            ),
            (
                "HTTP/1.1 503 Busy\r\n\r\n<!doctype html>",
                "503 Busy",
                false,
            ),
            ("HTTP/1.1 200", "it has closed without an answer", false),
            ("", "it has closed without an answer", false),
        ] {
            for part in [1, 7, 4096] {
                let why = why.to_owned();
                let denied = Progress::Denied { why, is_final };
                assert_eq!(answer(bytes.as_bytes(), part).0, denied, "{bytes}");
            }
        }
    }

    #[test]
    fn the_reason_of_a_long_page_is_not_waited_for_to_its_end() {
        let page = [
            b"HTTP/1.1 407 Who\r\n\r\n<html>\n".to_vec(),
            vec![b'x'; 100_000],
        ]
        .concat();
        let (denied, taken) = answer(&page, 1024);
        assert_eq!(denied, Progress::Garbage("407 Who".to_owned()));
        assert!(taken <= ANSWER_MAX + 1024, "{taken}");
    }

    /// As nginx, Python, Go, Docker and Apache answer to CONNECT.
    #[test]
    fn a_web_server_is_no_gateway_and_its_page_is_not_told() {
        for (status, body) in [
            ("400 Bad Request", "<html>\r\n<head>"),
            ("501 Unsupported method ('CONNECT')", "<!DOCTYPE HTML>\n"),
            ("400 Bad Request", "400 Bad Request"),
            ("404 Not Found", "404 page not found\n"),
            ("404 Not Found", "{\"message\":\"page not found\"}\n"),
            ("405 Method Not Allowed", ""),
            ("403 Forbidden", "<!DOCTYPE HTML PUBLIC"),
            ("301 Moved", "moved"),
        ] {
            let bytes = format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\n\r\n{body}");
            let found = answer(bytes.as_bytes(), 4096).0;
            assert_eq!(found, Progress::Garbage(status.to_owned()), "{bytes}");
        }
    }

    #[test]
    fn what_is_no_answer_is_garbage() {
        let long = [b"HTTP/1.1 200 ok\r\nx: ".to_vec(), vec![b'y'; ANSWER_MAX]].concat();
        for bytes in [
            &b"SSH-2.0-OpenSSH_9\r\n"[..],
            b"\x05\x00",
            b"\0",
            b"OK 1\n",
            b"HTTP/2 200\r\n\r\n",
            &long,
        ] {
            let (progress, _) = answer(bytes, 512);
            assert!(matches!(progress, Progress::Garbage(_)), "{progress:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_answer_ends_and_is_the_same_however_it_comes(
            head in 0..3usize,
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            part in 1..64usize,
        ) {
            let heads: [&[u8]; 3] = [b"", b"HTTP/1.1 ", CONNECTED];
            let bytes = [heads[head], &tail].concat();
            let (whole, in_parts) = (answer(&bytes, 4096), answer(&bytes, part));
            prop_assert_eq!(whole.0 == Progress::Accepted, in_parts.0 == Progress::Accepted);
            if head == 2 {
                prop_assert_eq!(in_parts, (Progress::Accepted, CONNECTED.len()));
            }
        }
    }
}
