//! CONNECT of HTTP as the gateway speaks it (RFC 9110, section 9.3.6; RFC 9112): a head in authority form, one line back.

use httparse::EMPTY_HEADER;

use super::step::{Form, REQUEST_MAX, Request, Step};
use crate::asked;
use crate::error::Error;

/// Fields that a head may have.
const FIELDS_MAX: usize = 64;
/// Bytes of a method that are shown where it is the wrong one.
const METHOD_SHOWN: usize = 20;

/// Says that the stream begins.
pub(super) const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Says that no rule allows it, and why.
pub(super) fn not_allowed(why: &str) -> Vec<u8> {
    reply("403 Forbidden", "", why)
}

/// Says that it is no request.
pub(super) fn bad_request(problem: &str) -> Vec<u8> {
    reply("400 Bad Request", "", problem)
}

/// Says that the target was not reached, for that reason.
pub(super) fn failed(error: &Error, reason: &str) -> Vec<u8> {
    let status = match error {
        Error::ConnectTimeout { .. } | Error::Lookup { .. } => "504 Gateway Timeout",
        _ => "502 Bad Gateway",
    };
    reply(status, "", reason)
}

fn reply(status: &str, fields: &str, line: &str) -> Vec<u8> {
    let length = line.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n{fields}\
         Connection: close\r\n\r\n{line}\n"
    )
    .into_bytes()
}

/// Cuts what was sent by somebody else to what fits into a line.
fn shown(method: &str) -> &str {
    method.get(..METHOD_SHOWN).unwrap_or(method)
}

/// Reads a head.
pub(super) fn read(bytes: &[u8]) -> Step {
    let wrong = |problem: String| Step::Wrong {
        reply: bad_request(&problem),
        problem,
    };
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_MAX => return Step::Incomplete,
        Ok(httparse::Status::Partial) => return wrong(format!("longer than {REQUEST_MAX} bytes")),
        Err(error) => {
            let what = match bytes.first() {
                Some(0x16) => "TLS, which begins after an answer to CONNECT".to_owned(),
                _ => error.to_string(),
            };
            return wrong(format!("neither HTTP/1.1 CONNECT nor SOCKS5: {what}"));
        }
    };
    if request.method != Some("CONNECT") {
        let problem = "this is a gateway for CONNECT: have the client use it for a tunnel, e.g. `curl --proxytunnel`";
        return Step::Wrong {
            reply: reply("405 Method Not Allowed", "Allow: CONNECT\r\n", problem),
            problem: format!(
                "HTTP {}, and CONNECT alone is served",
                shown(request.method.unwrap_or_default())
            ),
        };
    }
    match asked::authority(request.path.unwrap_or_default()) {
        Ok(asked) => Step::Asked(Request {
            form: Form::Http,
            asked,
            length,
        }),
        Err(error) => wrong(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_in_authority_form_is_read_and_what_is_behind_it_left() {
        for (head, asked) in [
            (
                "CONNECT example.net:443 HTTP/1.1\r\nHost: example.net:443\r\n\r\n",
                "example.net:443",
            ),
            (
                "CONNECT [2001:db8::1]:22 HTTP/1.0\r\n\r\n",
                "[2001:db8::1]:22",
            ),
            (
                "CONNECT 3.vsock:22 HTTP/1.1\nProxy-Authorization: Basic eDp5\n\n",
                "vsock:3:22",
            ),
        ] {
            let Step::Asked(found) = read(format!("{head}more").as_bytes()) else {
                panic!("{head}")
            };
            assert_eq!(
                (found.asked.to_string().as_str(), found.length),
                (asked, head.len())
            );
        }
    }

    #[test]
    fn what_is_wrong_has_its_status() {
        let long = format!(
            "CONNECT a.example:1 HTTP/1.1\r\nx: {}",
            "y".repeat(REQUEST_MAX)
        );
        let many = format!(
            "CONNECT a.example:1 HTTP/1.1\r\n{}\r\n",
            "x: y\r\n".repeat(65)
        );
        for (head, status, words) in [
            (
                "GET http://example.net/ HTTP/1.1\r\nHost: example.net\r\n\r\n",
                405,
                "HTTP GET",
            ),
            ("POST / HTTP/1.1\r\n\r\n", 405, "HTTP POST"),
            ("CONNECT / HTTP/1.1\r\n\r\n", 400, "the port is missing"),
            (
                "CONNECT http://example.net:80/ HTTP/1.1\r\n\r\n",
                400,
                "the port must be",
            ),
            (
                "CONNECT example.net:70000 HTTP/1.1\r\n\r\n",
                400,
                "the port must be",
            ),
            (
                "CONNECT a@example.net:70 HTTP/1.1\r\n\r\n",
                400,
                "nor the name",
            ),
            (
                "CONNECT [fe80::1%25eth0]:70 HTTP/1.1\r\n\r\n",
                400,
                "zone ids",
            ),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version"),
            ("\x16\x03\x01\x02\0\x01", 400, "TLS"),
            ("SSH-2.0-OpenSSH_9\r\n", 400, "neither HTTP/1.1"),
            ("\0", 400, "neither HTTP/1.1"),
            ("CONNECT a\0b:1 HTTP/1.1\r\n\r\n", 400, "neither HTTP/1.1"),
            (&many, 400, "headers"),
            (&long, 400, "longer than 8192"),
        ] {
            let Step::Wrong { reply, problem } = read(head.as_bytes()) else {
                panic!("{head}")
            };
            let reply = String::from_utf8(reply).unwrap();
            assert!(
                reply.starts_with(&format!("HTTP/1.1 {status} ")),
                "{head}: {reply}"
            );
            assert!(problem.contains(words), "{head}: {problem}");
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
            assert_eq!(body.lines().count(), 1, "{reply}");
        }
    }
}
