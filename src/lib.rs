//! Bridges between AF_VSOCK, IPv6 and unix sockets, for connections to and from virtual machines.

pub mod config_file;
pub mod connect;
pub mod endpoint;
pub mod error;
pub mod mux;
pub mod names;
pub mod prefix;
pub mod stream;
pub mod sys;
pub mod vsock;
