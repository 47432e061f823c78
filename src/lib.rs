//! Bridges between AF_VSOCK, IPv6 and unix sockets, for connections to and from virtual machines.
//!
//! # The life of one connection
//!
//! 1. [`activation`] has taken the listeners that systemd bound; the kernel said which of them listen. Without systemd
//!    [`listen`] has bound them.
//! 2. [`serve::Loop`] waits in epoll. A listener has a peer: it is accepted, one per wake-up on vsock.
//! 3. [`gate::Gate`] decides by CID, limits and network. Who is refused is reset; the target hears nothing.
//! 4. [`connect::Dialer`] begins a non-blocking connect to the target, from the source `P::<CID>` if that is wanted
//!    ([`prefix`]), through the line of hybrid vsock ([`mux`]) where a VMM needs it. A target that is down resets the
//!    peer at once. A header ([`proxy_protocol`]) tells the target who it is, if that is wanted.
//! 5. [`relay::connection::Connection`] is two [`relay::flow::Flow`]s. Each moves bytes one way, sends the end on after
//!    the last byte, and knows nothing of the other; a limit or an error ends both.
//! 6. Why it is over is an [`accounting::Ending`]: one log entry, and both sockets closed. [`relay`] has the table of all states.
//!
//! Accept=yes and stdin/stdout ([`programs::connect`]) use the same loop, without listeners.
//!
//! Only what the programs are made of is public: [`programs`] and [`logging`]; and [`testing`] and [`fuzzing`], for the
//! tests.
//!
//! # Architecture
//!
//! A bridge is one process of few threads. The [loop](serve::Loop) has the listeners, the signals and the connections;
//! one that moves much, and half of the busy ones when there is too much for the loop alone, go to [threads](serve)
//! beside it, and lines of the log to one of their own. Nothing but epoll waits. The connections of a
//! thread share one buffer, and pipes for bulk: one that is idle costs two sockets.
//!
//! Under systemd the process owns nothing that must not be lost. systemd binds the listeners and keeps them; the sockets of each
//! connection are also in systemd's descriptor store, with what is to be known of them in a ledger that the kernel keeps
//! true ([`handover`]). The next process goes on from there, whether this one was told to leave or was killed.
//!
//! ## Layers
//!
//! A module uses only rows below its own.
//!
//! | modules | what they are |
//! | --- | --- |
//! | `bin/*` [`fuzzing`] [`testing`] | arguments → library → exit status; what fuzzers and tests call |
//! | [`programs`] | the bodies of the programs, their options and environment |
//! | [`serve`] | the loop of a bridge: listeners, signals, who comes in, and the threads beside it |
//! | [`relay`] | sessions, connections and flows |
//! | [`accounting`] | what is counted, logged and shown of connections |
//! | [`activation`] [`connect`] [`listen`] | sockets from systemd, connections to targets, listeners of our own |
//! | [`fdpass`] [`handover`] [`mux`] [`tunnel`] | streams handed on: to ssh, to the next process, to a port behind a monitor or a gateway |
//! | [`stream`] [`notify`] | connected and listening sockets; what systemd is told and keeps |
//! | [`descriptors`] [`gate`] [`gateway`] [`logging`] [`managers`] [`packets`] [`proxy_protocol`] [`registry_watch`] [`route`] [`this_machine`] [`unix_path`] | one job each |
//! | [`folder_watch`] [`tool`] [`waker`] | what changes in a folder; other programs, asked a question; what wakes a thread |
//! | [`clock`] [`error`] [`peer`] [`sys`] | moments, failures, addresses of sockets, the only `unsafe` |
//! | [`vsock_bridge_values`] | machines, addresses, prefixes and names, read and printed; a crate of its own |
#![warn(unreachable_pub)]

mod accounting;
mod activation;
mod clock;
mod connect;
mod descriptors;
mod error;
mod fdpass;
mod folder_watch;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gateway;
mod handover;
mod listen;
pub mod logging;
mod managers;
mod mux;
mod notify;
mod packets;
mod peer;
pub mod programs;
mod proxy_protocol;
mod registry_watch;
mod relay;
mod route;
mod serve;
mod stream;
mod sys;
#[doc(hidden)]
pub mod testing;
mod this_machine;
mod tool;
mod tunnel;
mod unix_path;
mod waker;

use vsock_bridge_values::{
    allow_list, asked, config_file, configured, endpoint, gateway_rules, invalid, known,
    listen_list, location, names, port_list, prefix, registry, replace, target_list, unusable, via,
    vsock,
};
