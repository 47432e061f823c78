//! What a peer of the gateway is told, in the form in which it has asked.

use super::step::Form;
use super::{http, socks};
use crate::error::Error;

/// Answers a greeting of SOCKS5: no authentication.
pub(crate) const METHOD: [u8; 2] = [socks::VERSION, 0];

impl Form {
    /// Says that the target is reached, and that the stream begins behind this.
    pub(crate) fn connected(self) -> Vec<u8> {
        match self {
            Form::Socks => socks::reply(socks::Code::Connected),
            Form::Http => http::CONNECTED.to_vec(),
            Form::Proxy => Vec::new(),
        }
    }

    /// Says why the target is not reached.
    pub(crate) fn failed(self, error: &Error) -> Vec<u8> {
        match (self, error) {
            (Form::Socks, Error::NotAllowed(_)) => socks::reply(socks::Code::NotAllowed),
            (Form::Socks, error) => socks::reply(socks::code(error)),
            (Form::Http, Error::NotAllowed(why)) => http::not_allowed(why),
            (Form::Http, error) => http::failed(error),
            (Form::Proxy, _) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::endpoint::Endpoint;

    #[test]
    fn each_failure_has_its_code_and_status() {
        let target: Endpoint = "192.0.2.1:80".parse().unwrap();
        let connect = |source| Error::Connect {
            target: Box::new(target.clone()),
            hint: "",
            source,
        };
        let timeout = Error::ConnectTimeout {
            target: Box::new(target.clone()),
            hint: "",
            limit: std::time::Duration::from_secs(5),
        };
        let unknown = Error::Resolve {
            name: "a.example".to_owned(),
            source: std::io::Error::other("unknown"),
        };
        for (error, code, status) in [
            (Error::NotAllowed("no rule".to_owned()), 2, 403),
            (connect(Errno::ECONNREFUSED), 5, 502),
            (connect(Errno::ECONNRESET), 5, 502),
            (connect(Errno::ENETUNREACH), 3, 502),
            (connect(Errno::EHOSTUNREACH), 4, 502),
            (connect(Errno::EPERM), 1, 502),
            (timeout, 4, 504),
            (unknown, 4, 502),
        ] {
            let socks = Form::Socks.failed(&error);
            assert_eq!((socks.len(), socks[1]), (10, code), "{error}");
            let http = String::from_utf8(Form::Http.failed(&error)).unwrap();
            assert!(http.starts_with(&format!("HTTP/1.1 {status} ")), "{http}");
        }
        assert_eq!(Form::Socks.connected()[..2], [5, 0]);
        assert!(Form::Http.connected().starts_with(b"HTTP/1.1 200 "));
    }
}
