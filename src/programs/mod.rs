//! The bodies of the programs, one module for each, with what they share: how a command line is read, how often a start that fails
//! is tried again, and how another program takes the place of one.

pub mod bridge;
pub mod command_line;
pub mod connect;
pub mod ctl;
pub mod exec;
pub mod generator;
pub mod notify;
pub(crate) mod options;
mod pace;
mod replace;
mod unit_folder;
