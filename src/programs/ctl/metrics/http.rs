//! HTTP/1.1 (RFC 9110, RFC 9112), as far as it takes to be asked for the metrics: requests read, responses written.
//!
//! Pure: what moves the bytes stands in [`exchange`](super::exchange).

use std::time::SystemTime;

use httparse::{EMPTY_HEADER, Header};

use super::format::Format;
use super::host;

/// Bytes that a request may have up to its empty line; Prometheus sends some 400.
pub(super) const HEAD_MAX: usize = 8192;
/// Its fields.
const FIELDS_MAX: usize = 64;
/// Where the metrics are.
const PATH: &str = "/metrics";
const OPENMETRICS: &str = "application/openmetrics-text";

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(u16, &'static str);

impl Status {
    const OK: Status = Status(200, "OK");
    const BAD_REQUEST: Status = Status(400, "Bad Request");
    const NOT_FOUND: Status = Status(404, "Not Found");
    const METHOD_NOT_ALLOWED: Status = Status(405, "Method Not Allowed");
    /// For a host that is not this one (RFC 9110, section 15.5.20).
    pub(super) const MISDIRECTED: Status = Status(421, "Misdirected Request");
    const TIMEOUT: Status = Status(408, "Request Timeout");
    const TOO_LARGE: Status = Status(431, "Request Header Fields Too Large");
    pub(super) const FAILED: Status = Status(500, "Internal Server Error");
    const VERSION: Status = Status(505, "HTTP Version Not Supported");
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// How the metrics are to be written; or what is wrong with it.
    pub format: Result<Format, Status>,
    /// Only what would stand before the body is wanted (HEAD).
    pub is_head: bool,
    /// The host that it names may be any domain's.
    pub is_from_anywhere: bool,
}

/// A response, but for its first line and the fields that all have.
#[derive(Debug)]
pub(super) struct Response {
    pub status: Status,
    pub content_type: &'static str,
    pub body: String,
}

impl Request {
    /// Reads what has come so far; none while the end is missing.
    pub(super) fn read(bytes: &[u8]) -> Option<Request> {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let format = match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => wanted(&request),
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return None,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                Err(Status::TOO_LARGE)
            }
            Err(httparse::Error::Version) => Err(Status::VERSION),
            Err(_) => Err(Status::BAD_REQUEST),
        };
        Some(Request {
            format,
            is_head: request.method == Some("HEAD"),
            is_from_anywhere: hosts(&request).any(|host| !host::is_own(host)),
        })
    }

    /// Says that it did not come in time.
    pub(super) fn late() -> Request {
        Request {
            format: Err(Status::TIMEOUT),
            is_head: false,
            is_from_anywhere: false,
        }
    }
}

/// Finds out how the metrics are to be written.
///
/// Errors: the status that says what is wrong.
fn wanted(request: &httparse::Request<'_, '_>) -> Result<Format, Status> {
    let hosts = fields(request, "host").count();
    // RFC 9112, section 3.2.
    if hosts > 1 || hosts == 0 && request.version == Some(1) {
        return Err(Status::BAD_REQUEST);
    }
    if path(request.path.unwrap_or_default()) != PATH {
        return Err(Status::NOT_FOUND);
    }
    let Some("GET" | "HEAD") = request.method else {
        return Err(Status::METHOD_NOT_ALLOWED);
    };
    let accept = fields(request, "accept");
    Ok(format(
        accept.filter_map(|value| std::str::from_utf8(value).ok()),
    ))
}

/// Returns the values of a field.
fn fields<'a>(
    request: &'a httparse::Request<'_, '_>,
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> {
    let is_it = move |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name);
    request
        .headers
        .iter()
        .filter(is_it)
        .map(|field| field.value)
}

/// Returns the hosts that a request names; what is no text is none.
fn hosts<'a>(request: &'a httparse::Request<'_, '_>) -> impl Iterator<Item = &'a str> {
    fields(request, "host").map(|value| std::str::from_utf8(value).unwrap_or_default())
}

/// Takes the path out of a target, which is a whole URL where a proxy was asked.
fn path(target: &str) -> &str {
    let target = match target.split_once("://") {
        _ if target.starts_with('/') => target,
        Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => target,
    };
    target.split(['?', '#']).next().unwrap_or_default()
}

/// Finds what is wanted most. OpenMetrics is for those that name it; everybody else gets what all read.
fn format<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let (mut openmetrics, mut text) = (0.0, 0.0);
    for range in accept.flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let (mut weight, mut version) = (1.0, None);
        for (parameter, value) in parts.filter_map(|part| part.split_once('=')) {
            match parameter.trim_end() {
                // What is no number is no wish.
                "q" | "Q" => weight = value.trim_start().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim_start().trim_matches('"')),
                _ => {}
            }
        }
        if name.eq_ignore_ascii_case(OPENMETRICS)
            && version.is_none_or(|version| version == "1.0.0")
        {
            openmetrics = f32::max(openmetrics, weight);
        } else if name.eq_ignore_ascii_case("text/plain") {
            text = f32::max(text, weight);
        }
    }
    match openmetrics > 0.0 && openmetrics >= text {
        true => Format::OpenMetrics,
        false => Format::Text,
    }
}

impl Response {
    /// Answers with the metrics.
    pub(super) fn metrics(format: Format, text: String) -> Response {
        Response {
            status: Status::OK,
            content_type: match format {
                Format::Text => "text/plain; version=0.0.4; charset=utf-8",
                Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            },
            body: text,
        }
    }

    /// Answers that there are none, and why.
    pub(super) fn refusal(status: Status) -> Response {
        let why = match status {
            Status::NOT_FOUND => "the metrics are at /metrics",
            Status::MISDIRECTED => "ask for localhost, an address, or a name that ends in .vsock",
            Status::FAILED => "the bridges cannot be asked; the journal of this machine says why",
            Status(_, reason) => reason,
        };
        Response {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{why}\n"),
        }
    }

    /// Writes it for the wire; without the body where the request is HEAD.
    pub(super) fn bytes(&self, is_head: bool) -> Vec<u8> {
        let Status(code, reason) = self.status;
        let allow = match self.status {
            Status::METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let date = httpdate::fmt_http_date(SystemTime::now());
        let (content_type, length) = (self.content_type, self.body.len());
        let mut text = format!(
            "HTTP/1.1 {code} {reason}\r\nDate: {date}\r\n{allow}Content-Type: {content_type}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        if !is_head {
            text += &self.body;
        }
        text.into_bytes()
    }
}

/// Reads a request as one that comes byte by byte, for the fuzzers: a part of it is never taken for another one.
pub(super) fn read_in_parts(bytes: &[u8]) {
    let first = (0..=bytes.len()).find_map(|end| Request::read(&bytes[..end]));
    let Some(first) = first else { return };
    if first.format.is_ok() {
        assert_eq!(Request::read(bytes), Some(first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "Host: [::1]:10400\r\n";

    fn read(text: &str) -> Option<Result<Format, Status>> {
        Request::read(text.as_bytes()).map(|request| request.format)
    }

    fn get(fields: &str) -> Format {
        let request = read(&format!("GET /metrics HTTP/1.1\r\n{HOST}{fields}\r\n"));
        request.unwrap().unwrap()
    }

    #[test]
    fn a_request_is_complete_with_its_empty_line() {
        let whole = format!("HEAD /metrics HTTP/1.1\r\n{HOST}\r\n");
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "{end}");
        }
        let request = Some(Request {
            format: Ok(Format::Text),
            is_head: true,
            is_from_anywhere: false,
        });
        assert_eq!(Request::read(whole.as_bytes()), request);
        let more = format!("{whole}and a body");
        assert_eq!(Request::read(more.as_bytes()), request);
    }

    #[test]
    fn what_is_asked_for_is_found_however_it_is_written() {
        for line in [
            "GET /metrics HTTP/1.1",
            "GET /metrics?x=http://y/ HTTP/1.1",
            "GET http://web:10400/metrics HTTP/1.1",
        ] {
            assert!(
                read(&format!("{line}\r\n{HOST}\r\n")).unwrap().is_ok(),
                "{line}"
            );
        }
        // As ApacheBench asks, and older programs.
        assert!(read("GET /metrics HTTP/1.0\r\n\r\n").unwrap().is_ok());
    }

    #[test]
    fn each_fault_has_its_status() {
        let many = "X: y\r\n".repeat(FIELDS_MAX + 1);
        let long = format!("X: {}\r\n", "y".repeat(HEAD_MAX));
        for (line, fields, status) in [
            ("GET / HTTP/1.1", "", Status::NOT_FOUND),
            ("GET http://web HTTP/1.1", "", Status::NOT_FOUND),
            ("GET /metricsx HTTP/1.1", "", Status::NOT_FOUND),
            ("OPTIONS * HTTP/1.1", "", Status::NOT_FOUND),
            ("POST /metrics HTTP/1.1", "", Status::METHOD_NOT_ALLOWED),
            ("get /metrics HTTP/1.1", "", Status::METHOD_NOT_ALLOWED),
            ("GET /metrics HTTP/2.0", "", Status::VERSION),
            ("GET /metrics", "", Status::BAD_REQUEST),
            ("GET /metrics HTTP/1.1", HOST, Status::BAD_REQUEST),
            ("GET /metrics HTTP/1.1", "no field\r\n", Status::BAD_REQUEST),
            ("GET /metrics HTTP/1.1", &many, Status::TOO_LARGE),
        ] {
            let found = read(&format!("{line}\r\n{HOST}{fields}\r\n"));
            assert_eq!(found, Some(Err(status)), "{line} {fields}");
        }
        let unending = format!("GET /metrics HTTP/1.1\r\n{HOST}{long}");
        assert_eq!(read(&unending), Some(Err(Status::TOO_LARGE)));
        let without_host = read("GET /metrics HTTP/1.1\r\n\r\n");
        assert_eq!(without_host, Some(Err(Status::BAD_REQUEST)));
    }

    #[test]
    fn a_host_that_may_be_anybodys_is_told() {
        for (fields, is_from_anywhere) in [
            ("Host: [::1]:10400", false),
            ("host: localhost", false),
            ("Host: web.example", true),
            ("Host:", true),
            ("Host: \u{e4}", true),
            ("X: y", false),
        ] {
            let request = format!("GET /metrics HTTP/1.1\r\n{fields}\r\n\r\n");
            let request = Request::read(request.as_bytes()).unwrap();
            assert_eq!(request.is_from_anywhere, is_from_anywhere, "{fields}");
        }
    }

    #[test]
    fn who_names_openmetrics_gets_it_unless_something_else_is_wanted_more() {
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (old, Format::OpenMetrics),
            (new, Format::OpenMetrics),
            (
                "Application/OpenMetrics-Text ; Q = 0.5",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text; version=\"1.0.0\"",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            (
                "application/openmetrics-text;version=2.0.0,text/plain;q=0.1",
                Format::Text,
            ),
            (
                "text/plain, application/openmetrics-text;q=0.9",
                Format::Text,
            ),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=x", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml", Format::Text),
            (",;,=;q", Format::Text),
        ] {
            let found = get(&format!("Accept: {accept}\r\n"));
            assert_eq!(found, format, "{accept}");
        }
        let two = get("Accept: text/plain;q=0.5\r\nACCEPT: application/openmetrics-text\r\n");
        assert_eq!(two, Format::OpenMetrics);
        assert_eq!(get(""), Format::Text);
        assert_eq!(get("Accept: \u{e4}\r\n"), Format::Text);
    }

    #[test]
    fn a_response_tells_its_length_and_head_leaves_the_body_out() {
        let response = Response::metrics(Format::OpenMetrics, "# EOF\n".to_owned());
        let [head, whole] =
            [true, false].map(|is_head| String::from_utf8(response.bytes(is_head)).unwrap());
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nDate: ") && head.ends_with("\r\n\r\n"));
        let content = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
            Content-Length: 6\r\nConnection: close\r\n\r\n";
        assert!(head.ends_with(content), "{head}");
        assert!(whole.ends_with(&format!("{content}# EOF\n")), "{whole}");
        let refusal = Response::refusal(Status::METHOD_NOT_ALLOWED).bytes(false);
        let refusal = String::from_utf8(refusal).unwrap();
        assert!(refusal.contains("\r\nAllow: GET, HEAD\r\n"), "{refusal}");
    }
}
