//! `vsockctl metrics --http`: one request on the connection that systemd passes as standard input, and its answer.
//!
//! Whoever asks has a bounded time for each part, and nobody is waited for after that.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::families::families;
use super::format::Format;
use super::http::{HEAD_MAX, Request, Response, Status};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::programs::ctl::bridges::survey;
use crate::programs::ctl::check::units::Manager;

/// For the whole request to come.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// For the answer to be taken.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// For the other end to close, so that what it sent besides does not reset the connection before it has read the answer.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// What it may send besides.
const REST_MAX: usize = 64 * 1024;

/// Answers one request, whatever comes.
///
/// Errors: [`Error::Usage`] when standard input is no connection.
pub(super) fn run() -> Result<()> {
    let mut connection = Connection::passed()?;
    let Some(request) = connection.request() else {
        return Ok(());
    };
    let response = match request.format {
        Ok(_) if request.is_from_anywhere && connection.is_local() => {
            Response::refusal(Status::MISDIRECTED)
        }
        Ok(format) => respond(format),
        Err(status) => Response::refusal(status),
    };
    connection.answer(&response.bytes(request.is_head));
    Ok(())
}

fn respond(format: Format) -> Response {
    match survey(Manager::System, &[]) {
        Ok(survey) => {
            for unread in &survey.unread {
                log::warn!("{}", unread.error.report());
            }
            Response::metrics(format, format.text(&families(&survey)))
        }
        Err(error) => {
            log::error!("{}", error.report());
            Response::refusal(Status::FAILED)
        }
    }
}

/// A connected socket of any family: in reading, writing and time limits they are all alike.
struct Connection(TcpStream);

impl Connection {
    fn passed() -> Result<Connection> {
        let stdin = std::io::stdin();
        if getsockopt(&stdin, sockopt::SockType) != Ok(SockType::Stream) {
            return Err(Error::Usage(
                "standard input is no connection: --http answers one that systemd passes, \
                 run `systemctl start vsock-bridge-metrics.socket`"
                    .to_owned(),
            ));
        }
        let socket = stdin.as_fd().try_clone_to_owned().map_err(|error| {
            let errno = error
                .raw_os_error()
                .map_or(Errno::UnknownErrno, Errno::from_raw);
            Error::system("take the connection")(errno)
        })?;
        Ok(Connection(socket.into()))
    }

    /// Returns whether it is for this machine alone. Where the socket unit has other addresses, names are for whoever chose
    /// them to decide; what is no TCP has none.
    fn is_local(&self) -> bool {
        let address = self.0.local_addr();
        address.is_ok_and(|address| address.ip().to_canonical().is_loopback())
    }

    /// Reads until a request is whole, or cannot become one. None when there is nobody to be answered.
    fn request(&mut self) -> Option<Request> {
        let until = Moment::now() + REQUEST_TIME;
        let (mut bytes, mut part) = (Vec::new(), [0; HEAD_MAX]);
        loop {
            match self.read(&mut part, until) {
                Ok(0) => return None,
                Ok(count) => bytes.extend(&part[..count]),
                Err(ErrorKind::TimedOut) if !bytes.is_empty() => return Some(Request::late()),
                Err(_) => return None,
            }
            if let Some(request) = Request::read(&bytes) {
                return Some(request);
            }
        }
    }

    /// Sends the answer and closes.
    fn answer(&mut self, bytes: &[u8]) {
        let until = Moment::now() + ANSWER_TIME;
        if let Err(kind) = self.write(bytes, until) {
            log::debug!("the answer was not taken: {kind}");
            return;
        }
        if self.0.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let until = Moment::now() + CLOSE_TIME;
        let (mut rest, mut part) = (0, [0; HEAD_MAX]);
        while rest < REST_MAX {
            match self.read(&mut part, until) {
                Ok(0) | Err(_) => return,
                Ok(count) => rest += count,
            }
        }
    }

    fn read(&mut self, part: &mut [u8], until: Moment) -> std::result::Result<usize, ErrorKind> {
        in_time(until, |left| {
            self.0.set_read_timeout(Some(left))?;
            self.0.read(part)
        })
    }

    fn write(&mut self, mut bytes: &[u8], until: Moment) -> std::result::Result<(), ErrorKind> {
        while !bytes.is_empty() {
            let count = in_time(until, |left| {
                self.0.set_write_timeout(Some(left))?;
                self.0.write(bytes)
            })?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

/// Tries again what was interrupted, while there is time, which it is told.
fn in_time(
    until: Moment,
    mut call: impl FnMut(Duration) -> std::io::Result<usize>,
) -> std::result::Result<usize, ErrorKind> {
    loop {
        let left = until - Moment::now();
        if left.is_zero() {
            return Err(ErrorKind::TimedOut);
        }
        match call(left).map_err(|error| error.kind()) {
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            result => return result,
        }
    }
}
