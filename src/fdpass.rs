//! Hands one connected socket to another program over a unix socket, as ssh's ProxyUseFdpass wants it.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Error, Result};
use crate::peer::Family;
use crate::stream::Stream;
use crate::sys;

/// Checks that a descriptor can be passed over `output`, before anything is connected.
///
/// Errors: [`Error::Usage`] when it is no unix socket.
pub fn check(output: BorrowedFd<'_>) -> Result<()> {
    match sys::local_address(output) {
        Ok(address) if Family::of(&address) == Some(Family::Unix) => Ok(()),
        _ => Err(Error::Usage(
            "`--fdpass` needs a unix socket as stdout, which ssh gives with `ProxyUseFdpass yes`"
                .into(),
        )),
    }
}

/// Sends the socket over `output`; whoever receives it finds it blocking, as if freshly made.
pub fn hand_over(output: BorrowedFd<'_>, stream: Stream) -> Result<()> {
    let socket = stream
        .into_blocking()
        .map_err(Error::system("make the connected socket blocking"))?;
    sys::send_descriptor(output, socket.as_fd())
        .map_err(Error::system("pass the connected socket over stdout"))
}
