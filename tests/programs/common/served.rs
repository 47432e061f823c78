//! A bridge that serves one connection, for `vsockctl list` and `vsockctl metrics`.

use super::bridge::Bridge;
use super::own_run::OwnRun;
use super::place::{Kind, Place, ping};
use super::program::{Finished, Program, finish, ours};
use super::skipped;
use socket2::Socket;

/// None, and said so, when nothing can be mounted here.
pub fn own_run() -> Option<OwnRun> {
    let run = OwnRun::new();
    if run.is_none() {
        skipped("nothing can be mounted here");
    }
    run
}

/// Runs vsockctl to its end.
pub fn vsockctl(run: &OwnRun, arguments: &[&str]) -> Finished {
    let mut vsockctl = run.command(ours("vsockctl"));
    vsockctl.args(arguments);
    finish(vsockctl)
}

/// Returns what was printed by what did well and had nothing else to say.
pub fn expect_output(finished: Finished) -> String {
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert_eq!(finished.stderr, [""; 0]);
    finished.stdout
}

/// A bridge with one open connection.
pub struct Served {
    pub bridge: Program,
    pub listener: Place,
    pub target: Place,
    pub client: Socket,
    _server: Socket,
}

/// Starts it, as the service of that name.
pub fn serve(run: &OwnRun, name: &str) -> Served {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = run.serve(name, Bridge::to(&target.text).listener(&listener));
    let bridge = bridge.start();
    let (mut client, mut server) = (listener.connect(), target.accept());
    ping(&mut client, &mut server);
    Served {
        bridge,
        listener,
        target,
        client,
        _server: server,
    }
}

impl Served {
    /// Returns the address of the client.
    pub fn peer(&self) -> String {
        let address = self.client.local_addr().unwrap();
        address.as_socket().unwrap().to_string()
    }
}
