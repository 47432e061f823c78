//! Unix sockets that a bridge makes itself: in the place of those that are left, never of those that somebody has.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::common::place::{Kind, Place, ping, stream};
use crate::common::program::Program;
use crate::common::spot::{Spot, alone, expect_refusal, listening};
use crate::common::{eventually, own_folder};

#[test]
fn a_unix_socket_is_left_behind_it_is_replaced() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Unix);
    spot.leave_behind();
    let old = fs::metadata(spot.file()).unwrap().ino();
    let bridge = listening(&target, &spot);
    ping(&mut spot.connect(), &mut target.accept());
    let names: Vec<_> = fs::read_dir(spot.file().parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(names.len(), 1, "was {old}: {names:?}");
    bridge.stop();
    assert!(!spot.file().exists());
}

#[test]
fn a_unix_socket_is_left_behind_at_a_path_longer_than_an_address_it_is_replaced() {
    let target = Place::listening(Kind::Tcp6);
    let folder = own_folder();
    let deep = folder.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let path = deep.join("socket");
    for _ in 0..2 {
        let mut bridge = alone(&target)
            .arguments(&["--listen", path.to_str().unwrap()])
            .start();
        bridge.wait_for_line("bridging");
        let opened = fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/socket", opened.as_raw_fd());
        drop(UnixStream::connect(short).unwrap());
        drop(target.accept());
        bridge.signal(Signal::SIGKILL);
        bridge.wait();
        assert!(path.exists());
    }
}

/// Whoever may read a folder can hold up who replaces something there, but not for long, and not who makes something new.
#[test]
fn somebody_keeps_the_folder_locked_a_new_socket_is_made_and_an_old_one_stays() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Unix);
    let folder = fs::File::open(spot.file().parent().unwrap()).unwrap();
    let lock = Flock::lock(folder, FlockArg::LockExclusive).unwrap();
    listening(&target, &spot).stop();
    spot.leave_behind();
    expect_refusal(
        &spot,
        &["another program listens there; if none does, remove the file"],
    );
    assert!(spot.file().exists());
    drop(lock);
    listening(&target, &spot).stop();
}

/// Who listens, or is about to, keeps its socket, and sees nobody who only looks.
#[test]
fn a_unix_socket_is_in_use_it_is_left_alone() {
    let used = ["another program listens there"];
    for queue in [0, 16] {
        let spot = Spot::new(Kind::Unix);
        let place = stream(Kind::Unix);
        place.bind(&spot.address).unwrap();
        place.listen(queue).unwrap();
        expect_refusal(&spot, &used);
        place.set_nonblocking(true).unwrap();
        assert!(place.accept().is_err(), "somebody connected");
        drop(spot.connect());
    }
    let spot = Spot::new(Kind::Unix);
    let bound = stream(Kind::Unix);
    bound.bind(&spot.address).unwrap();
    expect_refusal(&spot, &used);
    bound.listen(1).unwrap();
    drop(spot.connect());
    let spot = Spot::new(Kind::Unix);
    let datagrams = UnixDatagram::bind(&spot.text).unwrap();
    expect_refusal(&spot, &used);
    drop(datagrams);
    let spot = Spot::abstract_name();
    let place = stream(Kind::Unix);
    place.bind(&spot.address).unwrap();
    expect_refusal(&spot, &used);
}

#[test]
fn something_else_is_at_the_path_it_stays() {
    let words = ["what is there is no socket"];
    let spot = Spot::new(Kind::Unix);
    fs::write(spot.file(), "text").unwrap();
    expect_refusal(&spot, &words);
    assert_eq!(fs::read_to_string(spot.file()).unwrap(), "text");
    let spot = Spot::new(Kind::Unix);
    fs::create_dir(spot.file()).unwrap();
    expect_refusal(&spot, &words);
    let spot = Spot::new(Kind::Unix);
    let other = Spot::new(Kind::Unix);
    other.leave_behind();
    symlink(other.file(), spot.file()).unwrap();
    expect_refusal(&spot, &words);
    assert!(other.file().exists());
}

/// Ten bridges at once for the place of one that was killed: one has it, and the others say so.
#[test]
fn many_replace_the_same_socket_one_serves() {
    let target = Place::listening(Kind::Tcp6);
    for _ in 0..10 {
        let spot = Spot::new(Kind::Unix);
        spot.leave_behind();
        let start = || {
            alone(&target)
                .arguments(&["--listen", &spot.text, "--exit-idle-time", "1h"])
                .start()
        };
        let mut bridges: Vec<Program> = (0..10).map(|_| start()).collect();
        eventually("all but one have given up", || {
            let running = bridges.iter_mut().map(|bridge| !bridge.has_ended());
            running.map(usize::from).sum::<usize>() <= 1
        });
        let serving = bridges.iter_mut().position(|bridge| !bridge.has_ended());
        let mut serving = bridges.remove(serving.expect("none is left"));
        for mut bridge in bridges {
            assert_eq!(bridge.exit_code(), 1, "{:#?}", bridge.log);
        }
        serving.wait_for_line("bridging");
        ping(&mut spot.connect(), &mut target.accept());
        serving.stop();
        assert_eq!(
            fs::read_dir(spot.file().parent().unwrap()).unwrap().count(),
            0
        );
    }
}

#[test]
fn the_mode_is_that_of_the_socket_whatever_the_umask_is() {
    let target = Place::listening(Kind::Tcp6);
    for (mode, expected) in [
        (None, 0o666),
        (Some("0600"), 0o600),
        (Some("660"), 0o660),
        (Some("0777"), 0o777),
    ] {
        for umask in ["000", "077", "777"] {
            let spot = Spot::new(Kind::Unix);
            let mut bridge = alone(&target).shell(&format!("umask {umask}"));
            bridge = bridge.arguments(&["--listen", &spot.text]);
            if let Some(mode) = mode {
                bridge = bridge.variable("VSOCK_BRIDGE_LISTEN_MODE", mode);
            }
            let mut bridge = bridge.start();
            bridge.wait_for_line("bridging");
            let mode = fs::metadata(spot.file()).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, expected, "{mode:o} with umask {umask}");
            bridge.stop();
        }
    }
}

/// Where a file of somebody else has come in the place of ours, that stays.
#[test]
fn the_file_is_another_ones_at_the_end_it_stays() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Unix);
    let bridge = listening(&target, &spot);
    fs::remove_file(spot.file()).unwrap();
    let other = UnixListener::bind(&spot.text).unwrap();
    bridge.stop();
    drop(spot.connect());
    drop(other);
}
