//! vsock-connect between stdin, stdout and a connection: whatever they are, and in whatever order they end.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::thread;

use crate::common::connect::{connect, piped};
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place, pair_of_sockets};
use crate::common::program::{Finished, Program, command, finish, ours};
use crate::common::skipped;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use socket2::Socket;

const THERE: u64 = 3_000_017;
const BACK: u64 = 2_000_003;

fn contents() -> (Content, Content) {
    (Content::new(71), Content::new(72))
}

/// Serves one connection: takes all and answers at the same time.
fn serve(place: &Place) {
    let (there, back) = contents();
    let server = place.accept();
    thread::scope(|scope| {
        scope.spawn(|| there.expect_all(&mut &server, THERE));
        back.send(&mut &server, BACK);
        server.shutdown(Shutdown::Write).unwrap();
    });
}

#[test]
fn pipes_carry_every_byte_both_ways_at_once() {
    let (there, back) = contents();
    for kind in Kind::ALL {
        let place = Place::listening(kind);
        let mut program = piped(&[&place.text]);
        let (mut stdin, mut stdout) = (program.stdin(), program.stdout());
        thread::scope(|scope| {
            scope.spawn(|| serve(&place));
            scope.spawn(|| {
                there.send(&mut stdin, THERE);
                drop(stdin);
            });
            back.expect_all(&mut stdout, BACK);
        });
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    }
}

#[test]
fn files_carry_every_byte_from_and_to_where_they_stand() {
    let (there, back) = contents();
    for kind in Kind::ALL {
        let place = Place::listening(kind);
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(b"before").unwrap();
        there.send(&mut input, THERE);
        input.seek(std::io::SeekFrom::Start(6)).unwrap();
        let mut output = tempfile::tempfile().unwrap();
        output.write_all(b"before").unwrap();
        let mut command = connect(&[&place.text]);
        command.stdin(input).stdout(output.try_clone().unwrap());
        let mut program = Program::start(command);
        serve(&place);
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
        output.seek(std::io::SeekFrom::Start(6)).unwrap();
        back.expect_all(&mut output, BACK);
    }
}

/// splice(2) and others refuse such a file, and setting its flags anew would take the mark away.
#[test]
fn stdout_and_stderr_are_a_file_that_is_appended_to_all_comes_behind_what_others_write() {
    let (there, back) = contents();
    let place = Place::listening(Kind::Tcp6);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut others = File::options().append(true).open(log.path()).unwrap();
    others.write_all(b"before").unwrap();
    let mut input = tempfile::tempfile().unwrap();
    there.send(&mut input, THERE);
    input.rewind().unwrap();
    let mut command = connect(&[&place.text]);
    command.stdin(input).stdout(others.try_clone().unwrap());
    let mut program = Program::start_unheard(command, others.try_clone().unwrap());
    serve(&place);
    assert!(program.wait().success());
    others.write_all(b"behind").unwrap();
    let bytes = std::fs::read(log.path()).unwrap();
    assert!(bytes.starts_with(b"before") && bytes.ends_with(b"behind"));
    back.expect_all(&mut &bytes[6..bytes.len() - 6], BACK);
}

#[test]
fn sockets_carry_every_byte_one_for_both_or_one_for_each() {
    let (there, back) = contents();
    for is_one in [true, false] {
        let place = Place::listening(Kind::Unix);
        let (ours, theirs) = pair_of_sockets();
        let (our_other, their_other) = pair_of_sockets();
        let mut command = connect(&[&place.text]);
        let output = if is_one {
            theirs.try_clone().unwrap()
        } else {
            their_other
        };
        command
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(output));
        let mut program = Program::start(command);
        let from = if is_one { &ours } else { &our_other };
        thread::scope(|scope| {
            scope.spawn(|| serve(&place));
            scope.spawn(|| {
                there.send(&mut &ours, THERE);
                ours.shutdown(Shutdown::Write).unwrap();
            });
            back.expect_all(&mut &*from, BACK);
        });
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    }
}

/// As any inetd starts it: what was cut off does not look complete to the peer, and what is complete does.
#[test]
fn stdin_and_stdout_are_a_tcp_socket_the_peer_sees_how_the_target_has_ended() {
    for expected in [End::Clean, End::Reset] {
        let (inetd, place) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
        let mut client = inetd.connect();
        let accepted = inetd.accept();
        let mut command = connect(&[&place.text]);
        command
            .stdin(OwnedFd::from(accepted.try_clone().unwrap()))
            .stdout(OwnedFd::from(accepted));
        let mut program = Program::start(command);
        let mut server = place.accept();
        server.write_all(b"answer").unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        match expected {
            End::Reset => crate::common::place::reset(server),
            End::Clean => {
                client.shutdown(Shutdown::Write).unwrap();
                drop(server);
            }
        }
        assert_eq!(read_to_end(&mut client), (vec![], expected));
        assert_eq!(
            program.exit_code(),
            if expected == End::Clean { 0 } else { 255 }
        );
    }
}

/// As xinetd starts it. The peer is told nothing but what the target says, and the end.
#[test]
fn stdin_stdout_and_stderr_are_the_peer_it_hears_no_line_of_the_log() {
    let refusing = Place::bound(Kind::Tcp6);
    for arguments in [&["-vv", &*refusing.text][..], &["@"], &["--nonsense"]] {
        let (ours, theirs) = pair_of_sockets();
        let mut command = connect(arguments);
        let descriptor = || OwnedFd::from(theirs.try_clone().unwrap());
        command
            .stdin(descriptor())
            .stdout(descriptor())
            .stderr(descriptor());
        let status = command.status().unwrap();
        drop((command, theirs));
        assert!(!status.success());
        assert_eq!(
            read_to_end(&mut &ours),
            (vec![], End::Clean),
            "{arguments:?}"
        );
    }
}

#[test]
fn stdin_is_nothing_the_answer_comes_and_exit_0() {
    let place = Place::listening(Kind::Tcp6);
    let mut program = piped(&[&place.text]);
    drop(program.stdin());
    let mut server = place.accept();
    assert_eq!(read_to_end(&mut server).1, End::Clean);
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(read_to_end(&mut program.stdout()).0, b"answer");
    assert_eq!(program.exit_code(), 0);
}

/// The other programs of a pipeline have the same open file, and expect it to block.
#[test]
fn pipes_of_others_stay_blocking() {
    let place = Place::listening(Kind::Unix);
    let (input, ours) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let (theirs, output) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let shared = (input.try_clone().unwrap(), output.try_clone().unwrap());
    let mut command = connect(&[&place.text]);
    command.stdin(input).stdout(output);
    let mut program = Program::start(command);
    let mut server = place.accept();
    server.write_all(b"x").unwrap();
    File::from(theirs).read_exact(&mut [0]).unwrap();
    for end in [shared.0.as_fd(), shared.1.as_fd()] {
        let flags = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }
    drop((server, ours));
    assert_eq!(program.exit_code(), 0);
}

/// The three ends of a running vsock-connect.
struct Ends {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    server: Option<Socket>,
    program: Program,
}

/// Lets the ends go in an order: `i` stdin ends, `t` the target sends and closes, `o` the reader of stdout goes.
/// Returns the exit status.
fn end_in_order(order: &str) -> i32 {
    let place = Place::listening(Kind::Unix);
    let mut program = piped(&[&place.text]);
    let mut ends = Ends {
        stdin: Some(program.stdin()),
        stdout: Some(program.stdout()),
        server: Some(place.accept()),
        program,
    };
    // All three are in use.
    ends.stdin.as_mut().unwrap().write_all(b"?").unwrap();
    ends.server.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    ends.server.as_mut().unwrap().write_all(b"!").unwrap();
    ends.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    for event in order.chars() {
        ends.end(event);
    }
    ends.program.exit_code()
}

impl Ends {
    fn end(&mut self, event: char) {
        match event {
            'i' => {
                drop(self.stdin.take());
                // The target hears of it whatever became of stdout.
                if let Some(server) = &mut self.server {
                    assert_eq!(read_to_end(server), (vec![], End::Clean));
                }
            }
            't' => {
                // Refused at once where the end of stdout is known already.
                let _ = self.server.take().unwrap().write_all(b"farewell");
                if let Some(stdout) = &mut self.stdout {
                    assert_eq!(read_to_end(stdout), (b"farewell".to_vec(), End::Clean));
                }
            }
            _ => drop(self.stdout.take()),
        }
    }
}

#[test]
fn ends_go_in_every_order_exit_0() {
    for order in ["it", "ti", "ito", "toi", "tio", "oit", "oti", "iot"] {
        assert_eq!(end_in_order(order), 0, "{order}");
    }
}

#[test]
fn the_reader_of_stdout_goes_and_the_target_never_sends_exit_0() {
    let place = Place::listening(Kind::Tcp6);
    let mut program = piped(&[&place.text]);
    let server = place.accept();
    drop(program.stdout());
    drop((server, program.stdin()));
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
}

/// As `vsock-connect … | head` does, with somebody at the keyboard.
#[test]
fn the_reader_of_stdout_goes_and_the_target_sends_exit_0_without_a_word_or_the_end_of_stdin() {
    for kind in Kind::ALL {
        let place = Place::listening(kind);
        let mut program = piped(&[&place.text]);
        let mut server = place.accept();
        let stdin = program.stdin();
        drop(program.stdout());
        Content::new(73).send_while_wanted(&mut server, 10 << 20);
        drop(server);
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
        assert_eq!(program.log, [""; 0]);
        drop(stdin);
    }
}

#[test]
fn stdout_is_full_exit_255_and_the_line_names_it() {
    let place = Place::listening(Kind::Tcp6);
    let mut command = connect(&[&place.text]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let mut program = Program::start(command);
    place.accept().write_all(b"answer").unwrap();
    assert_eq!(program.exit_code(), 255);
    let line = "vsock-connect: cannot write to standard output: No space left on device";
    assert_eq!(program.log, [line]);
}

#[test]
fn stdin_is_a_directory_exit_255_and_the_line_names_it() {
    let place = Place::listening(Kind::Tcp6);
    let mut command = connect(&[&place.text]);
    command.stdin(File::open("/").unwrap());
    let mut program = Program::start(command);
    let _server = place.accept();
    assert_eq!(program.exit_code(), 255);
    let line = "vsock-connect: cannot read standard input: Is a directory";
    assert_eq!(program.log, [line]);
}

/// As with somebody at the keyboard. Of TCP only a byte, or keepalive, would tell.
#[test]
fn the_target_sends_and_closes_at_once_or_later_exit_0_without_the_end_of_stdin() {
    for ends_first in [false, true] {
        let place = Place::listening(Kind::Unix);
        let mut program = piped(&[&place.text]);
        let mut server = place.accept();
        let mut stdin = program.stdin();
        server.write_all(b"answer").unwrap();
        if ends_first {
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut program.stdout()).0, b"answer");
            stdin.write_all(b"late").unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
        }
        drop(server);
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
        assert_eq!(program.log, [""; 0]);
    }
}

#[test]
fn the_target_ends_its_direction_and_what_stdin_has_still_arrives() {
    let (there, _) = contents();
    for kind in Kind::ALL {
        let place = Place::listening(kind);
        let mut program = piped(&[&place.text]);
        let server = place.accept();
        let (mut stdin, mut stdout) = (program.stdin(), program.stdout());
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stdout), (vec![], End::Clean));
        thread::scope(|scope| {
            scope.spawn(|| {
                there.send(&mut stdin, THERE);
                drop(stdin);
            });
            there.expect_all(&mut &server, THERE);
        });
        drop(server);
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    }
}

#[test]
fn the_target_resets_exit_255_and_stdout_has_what_came_before() {
    let (_, back) = contents();
    let place = Place::listening(Kind::Tcp6);
    let mut program = piped(&[&place.text]);
    let mut server = place.accept();
    let (_stdin, mut stdout) = (program.stdin(), program.stdout());
    back.send(&mut server, 5000);
    back.expect(&mut stdout, 5000);
    crate::common::place::reset(server);
    assert_eq!(program.exit_code(), 255);
    let line = program.log.pop().unwrap();
    assert!(
        line.contains(&place.text) && line.contains("aborted by the target"),
        "{line}"
    );
}

/// Closed from the start. The runtime of the language puts /dev/null in their place.
#[test]
fn stdio_is_closed_from_the_start_in_every_combination_the_target_sees_a_connection_and_the_program_ends()
 {
    for closed in 0..8 {
        let place = Place::listening(Kind::Unix);
        let redirections = ["<&-", ">&-", "2>&-"];
        let chosen = (0..3).filter(|bit| closed & (1 << bit) != 0);
        let list: Vec<&str> = chosen.map(|bit| redirections[bit]).collect();
        let mut shell = command("sh");
        shell
            .arg("-c")
            .arg(format!(r#"exec "$0" "$@" {}"#, list.join(" ")));
        shell.arg(ours("vsock-connect")).arg(&place.text);
        shell
            .stdin(File::open("/dev/null").unwrap())
            .stdout(Stdio::piped());
        let mut program = Program::start(shell);
        let mut server = place.accept();
        assert_eq!(read_to_end(&mut server).1, End::Clean);
        drop(server);
        assert_eq!(program.exit_code(), 0, "{list:?}: {:#?}", program.log);
    }
}

#[test]
fn sigterm_ends_it_and_the_target_sees_the_end() {
    let place = Place::listening(Kind::Unix);
    let mut program = piped(&[&place.text]);
    let mut server = place.accept();
    server.write_all(b"x").unwrap();
    let (_stdin, mut stdout) = (program.stdin(), program.stdout());
    stdout.read_exact(&mut [0]).unwrap();
    program.signal(Signal::SIGTERM);
    assert_eq!(read_to_end(&mut server), (vec![], End::Clean));
    let status = program.exit_code();
    assert!(status != 0, "{status}");
}

#[test]
fn a_terminal_carries_lines_both_ways_and_its_end() {
    let place = Place::listening(Kind::Unix);
    let Some(command) = in_terminal(&[&place.text]) else {
        return skipped("script(1) is missing");
    };
    let terminal = thread::spawn(move || finish(command));
    let mut server = place.accept();
    server.write_all(b"answer\n").unwrap();
    // Typed by script(1), which ends with the end of its own stdin.
    assert_eq!(read_to_end(&mut server), (b"typed\n".to_vec(), End::Clean));
    drop(server);
    let Finished { code, stdout, .. } = terminal.join().unwrap();
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("answer\r\n"), "{stdout:?}");
}

/// Runs it in a terminal of its own, with a line typed.
fn in_terminal(arguments: &[&str]) -> Option<std::process::Command> {
    let mut script = command("script");
    let line = [&[ours("vsock-connect").as_str()], arguments]
        .concat()
        .join(" ");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]);
    let mut typed = tempfile::tempfile().unwrap();
    typed.write_all(b"typed\n").unwrap();
    typed.rewind().unwrap();
    script.stdin(typed);
    let mut version = command("script");
    version.arg("--version").stdout(Stdio::null());
    version
        .status()
        .is_ok_and(|status| status.success())
        .then_some(script)
}
