//! A request to the gateway, and how far it has come.

use crate::endpoint::Endpoint;

/// Bytes that a request may have.
pub(crate) const REQUEST_MAX: usize = 8192;

/// How a peer asks, and so is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// SOCKS5 (RFC 1928).
    Socks,
    /// `CONNECT` of HTTP (RFC 9110, section 9.3.6).
    Http,
    /// The header of the PROXY protocol, by which another gateway says who it brings; it is not answered.
    Proxy,
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its form.
    pub form: Form,
    /// Where the peer wants to go.
    pub asked: Endpoint,
    /// Its bytes; those behind them are for whom it wants to reach.
    pub length: usize,
}

/// What the bytes so far come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More must come.
    Incomplete,
    /// A greeting is complete, and is to be answered by [`reply::METHOD`](super::reply::METHOD).
    Greeting,
    /// All is there.
    Asked(Request),
    /// This is no request that can be served, for that reason; `reply` tells the peer.
    Wrong {
        /// What to send, if there is anything that the peer could understand.
        reply: Vec<u8>,
        /// What is wrong.
        problem: String,
    },
}
