//! What vsock-bridge and everything around it means by a machine, an address, a prefix and a name.
//!
//! A crate of its own so that the NSS module, which every process loads, and the fuzzers need no more than this. It opens
//! no socket, starts no thread and asks for nothing but files of configuration. Whoever reads one logs what is wrong in
//! it; nothing else is logged.
//!
//! A module uses only rows below its own.
//!
//! | modules | what they are |
//! | --- | --- |
//! | [`gateway_rules`] [`target_list`] | who may go where through the gateway; where connections go: one place, or one for each machine |
//! | [`allow_list`] [`host_names`] | a list of machines, its names looked up; machines that are named as hosts |
//! | [`known`] | where names are looked up |
//! | [`registry`] | names that programs give to machines while those run |
//! | [`configured`] | where prefix and names come from; the only file that reads and writes files of settings |
//! | [`unusable`] [`replace`] | what is configured and cannot be used; a file replaced in one step |
//! | [`asked`] [`listen_list`] | where a peer of the gateway asks to be taken; where a bridge listens by itself |
//! | [`via`] | the gateway to other machines, as it is written |
//! | [`endpoint`] | every address form |
//! | [`names`] [`prefix`] [`port_list`] | names of machines; CID ↔ address; ports of one bridge |
//! | [`location`] | where a machine is reached |
//! | [`vsock`] [`unix_name`] [`config_file`] | CID and port; the name of a unix socket; `NAME=value` as text |
//! | [`invalid`] | why a text is not what it should be |
#![warn(unreachable_pub)]

pub mod allow_list;
pub mod asked;
pub mod config_file;
pub mod configured;
pub mod endpoint;
pub mod gateway_rules;
mod host_names;
pub mod invalid;
pub mod known;
pub mod listen_list;
pub mod location;
pub mod names;
pub mod port_list;
pub mod prefix;
pub mod registry;
pub mod replace;
pub mod target_list;
pub mod unix_name;
pub mod unusable;
pub mod via;
pub mod vsock;
