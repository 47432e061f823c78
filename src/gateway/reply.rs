//! What a peer of the gateway is told, in the form in which it has asked.

use super::step::Form;
use super::{http, socks};
use crate::endpoint::Endpoint;
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

    /// Says why the target is not reached that was asked for.
    pub(crate) fn failed(self, error: &Error, asked: &Endpoint) -> Vec<u8> {
        match (self, error) {
            (Form::Socks, Error::NotAllowed(_)) => socks::reply(socks::Code::NotAllowed),
            (Form::Socks, error) => socks::reply(socks::code(error)),
            (Form::Http, Error::NotAllowed(why)) => http::not_allowed(why),
            (Form::Http, error) => http::failed(error, &reason(error, asked)),
            (Form::Proxy, _) => Vec::new(),
        }
    }
}

/// Returns the reason in a line. What a peer has asked for stands in the place of a socket of this machine, whose path is
/// nobody else's business.
fn reason(error: &Error, asked: &Endpoint) -> String {
    let is_path = |target: &Endpoint| matches!(target, Endpoint::Unix(_) | Endpoint::Mux { .. });
    let asked = || Box::new(asked.clone());
    let told = match error {
        Error::Connect {
            target,
            hint,
            source,
        } if is_path(target) => Error::Connect {
            target: asked(),
            hint,
            source: *source,
        },
        Error::ConnectTimeout {
            target,
            hint,
            limit,
        } if is_path(target) => Error::ConnectTimeout {
            target: asked(),
            hint,
            limit: *limit,
        },
        Error::Mux { target, problem } if is_path(target) => Error::Mux {
            target: asked(),
            problem: problem.clone(),
        },
        error => return error.report(),
    };
    told.report()
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

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
            let socks = Form::Socks.failed(&error, &target);
            assert_eq!((socks.len(), socks[1]), (10, code), "{error}");
            let http = String::from_utf8(Form::Http.failed(&error, &target)).unwrap();
            assert!(http.starts_with(&format!("HTTP/1.1 {status} ")), "{http}");
        }
        let target: Box<Endpoint> = Box::new("vsock-mux:/run/db.vsock:1081".parse().unwrap());
        let asked = "vsock:db:5432".parse().unwrap();
        for error in [
            Error::Connect {
                target: target.clone(),
                hint: " (is it?)",
                source: Errno::ENOENT,
            },
            Error::ConnectTimeout {
                target: target.clone(),
                hint: "",
                limit: std::time::Duration::from_secs(5),
            },
            Error::Mux {
                target,
                problem: "no".to_owned(),
            },
        ] {
            let told = String::from_utf8(Form::Http.failed(&error, &asked)).unwrap();
            let line = error
                .report()
                .replace("vsock-mux:/run/db.vsock:1081", "vsock:db:5432");
            assert!(told.ends_with(&format!("\r\n\r\n{line}\n")), "{told}");
        }
        assert_eq!(Form::Socks.connected()[..2], [5, 0]);
        assert!(Form::Http.connected().starts_with(b"HTTP/1.1 200 "));
    }
}
