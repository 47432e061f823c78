//! A client and a server with a bridge between them, in every accept mode and over every kind of socket.

use socket2::Socket;

use super::bridge::Bridge;
use super::place::{Kind, Place};
use super::program::Program;

/// Who accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// The bridge, which gets the listener.
    No,
    /// systemd, in place of which the test does it; the bridge gets the connection.
    Yes,
}

impl Accept {
    pub const BOTH: [Accept; 2] = [Accept::No, Accept::Yes];
}

pub struct Pair {
    pub client: Socket,
    pub server: Socket,
    pub ends: Ends,
}

/// All of a [`Pair`] but its two sockets.
pub struct Ends {
    pub bridge: Program,
    pub listener: Place,
    pub target: Place,
    pub accept: Accept,
}

/// How the bridge says that a connection went.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// "complete", or what went wrong.
    pub ending: String,
    pub inbound_bytes: u64,
    pub outbound_bytes: u64,
}

impl Pair {
    pub fn new(accept: Accept, from: Kind, to: Kind, arguments: &[&str]) -> Pair {
        let (listener, target) = (Place::listening(from), Place::listening(to));
        let bridge = Bridge::to(&target.text)
            .arguments(&["-v"])
            .arguments(arguments);
        let client = listener.connect();
        let bridge = match accept {
            Accept::No => bridge.listener(&listener).start(),
            Accept::Yes => bridge.descriptor(listener.accept()).start(),
        };
        let server = target.accept();
        Pair {
            client,
            server,
            ends: Ends {
                bridge,
                listener,
                target,
                accept,
            },
        }
    }

    pub fn split(self) -> (Socket, Socket, Ends) {
        (self.client, self.server, self.ends)
    }
}

impl Ends {
    /// Waits until the bridge has closed the connection and ends it; Accept=yes ends by itself.
    pub fn summary(mut self) -> Summary {
        let line = self.bridge.wait_for_line(" bytes in, ");
        if self.accept == Accept::No {
            self.bridge.stop();
        } else {
            assert_eq!(self.bridge.exit_code(), 0, "{:#?}", self.bridge.log);
        }
        parse(&line, &self.target.text)
    }

    /// Waits for a connection of which every byte was delivered.
    pub fn expect_complete(self, inbound_bytes: u64, outbound_bytes: u64) {
        let expected = Summary {
            ending: "complete".into(),
            inbound_bytes,
            outbound_bytes,
        };
        assert_eq!(self.summary(), expected);
    }
}

/// Reads `… PEER to TARGET ENDING: N bytes in, N bytes out, TIME`.
fn parse(line: &str, target: &str) -> Summary {
    let (_, rest) = line.split_once(&format!(" to {target} ")).expect(line);
    let (ending, counts) = rest.rsplit_once(": ").expect(line);
    let numbers: Vec<u64> = counts
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    Summary {
        ending: ending.into(),
        inbound_bytes: numbers[0],
        outbound_bytes: numbers[1],
    }
}

/// Runs a test in both accept modes and over every pair of sockets.
pub fn each_pair(test: impl Fn(Pair)) {
    for from in Kind::ALL {
        for to in Kind::ALL {
            each_mode(from, to, &test);
        }
    }
}

/// Runs a test in both accept modes.
pub fn each_mode(from: Kind, to: Kind, test: impl Fn(Pair)) {
    for accept in Accept::BOTH {
        // Shown if the test fails.
        eprintln!("{from:?} to {to:?}, Accept={accept:?}");
        test(Pair::new(accept, from, to, &[]));
    }
}
