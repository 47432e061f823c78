//! Bridges between AF_VSOCK, IPv6 and unix sockets, for connections to and from virtual machines.

pub mod activation;
pub mod command_line;
pub mod config;
pub mod config_file;
pub mod connect;
pub mod dial;
pub mod endpoint;
pub mod error;
pub mod fdpass;
pub mod logging;
pub mod mux;
pub mod names;
pub mod notify;
pub mod policy;
pub mod prefix;
pub mod relay;
pub mod server;
pub mod stream;
pub mod sys;
pub mod vsock;
