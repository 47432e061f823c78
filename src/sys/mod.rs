//! The calls that nix lacks or gives only for raw numbers; the one folder with `unsafe`.
//!
//! No policy and no logging: each function is one system call with owned or borrowed descriptors.
#![allow(
    unsafe_code,
    reason = "the only folder that may; every block says why it is sound"
)]

mod count;
mod mapping;
mod packet;
mod passed;
mod process;
mod socket;

pub use count::*;
pub(crate) use mapping::*;
pub use packet::*;
pub(crate) use passed::*;
pub(crate) use process::*;
pub(crate) use socket::*;
