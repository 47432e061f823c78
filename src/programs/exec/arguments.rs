//! The command line of vsock-exec.

use std::ffi::OsString;

use clap::{ArgAction, Parser};

use crate::allow_list::AllowList;

const AFTER_HELP: &str = "\
Without COMMAND it is VSOCK_BRIDGE_EXEC in the file of the port that the
connection came to, such as /etc/vsock-bridge/vsock-exec@2222.conf. That file
may have VSOCK_BRIDGE_ALLOW_CID as well, and variables for the command.

The command has the connection as its standard input and output, and REMOTE_CID,
REMOTE_ADDR, REMOTE_PORT or REMOTE_UID in its environment; see vsock-exec(8).";

/// Runs a command with a connection that systemd has accepted.
#[derive(Debug, Parser)]
#[command(name = "vsock-exec", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Arguments {
    /// Machines that may connect over vsock.
    ///
    /// any is every other machine, and a list such as 3,7,100-200,host,web is the machines in it. This machine itself
    /// comes in only by local, as in any,local. Who is not allowed is closed before the command runs. [default:
    /// VSOCK_BRIDGE_ALLOW_CID, else any]
    #[arg(long, value_name = "LIST")]
    pub(super) allow_cid: Option<AllowList>,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
    /// Log more; twice for everything.
    ///
    /// Given once, it is logged what is run and for whom; given twice, all that there is.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less; twice for errors only.
    ///
    /// Given once, warnings and errors are logged, given twice, errors alone.
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,
}
