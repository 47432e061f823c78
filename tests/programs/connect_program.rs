//! vsock-connect: every form of HOST that needs no AF_VSOCK, exit status, waiting, and handing the socket over.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::common::connect::{connect, passed, piped};
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place, pair_of_sockets, stream};
use crate::common::program::{Finished, Program, command, finish, ours, with_own_settings};
use crate::common::{DEADLINE, own_folder};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use socket2::Socket;

#[test]
fn every_form_of_an_address_reaches_its_place() {
    let unix = Place::listening(Kind::Unix);
    let relative = &unix.text[1..];
    let abstract_place = Place::listening(Kind::Tcp6);
    let port = abstract_place.address.as_socket().unwrap().port();
    let name = format!("@vsock-connect-test-{port}");
    let abstract_socket = stream(Kind::Unix);
    let address = socket2::SockAddr::unix(name.replacen('@', "\0", 1)).unwrap();
    abstract_socket.bind(&address).unwrap();
    abstract_socket.listen(1).unwrap();
    for form in [
        unix.text.clone(),
        format!("unix:{}", unix.text),
        format!("unix/{relative}"),
        format!("unix//{relative}"),
        format!("unix%/{relative}"),
        format!("unix%{relative}"),
    ] {
        expect_served(&[&form], &unix.socket);
        // ssh gives the port in any case.
        if form.starts_with("unix/") || form.starts_with("unix%") {
            expect_served(&[&form, "22"], &unix.socket);
        }
    }
    expect_served(&[&name], &abstract_socket);
    expect_served(&[&format!("unix/{name}")], &abstract_socket);
    for kind in [Kind::Tcp6, Kind::Tcp4] {
        let place = Place::listening(kind);
        expect_served(&[&place.text], &place.socket);
    }
    let four = Place::listening(Kind::Tcp4);
    let port = four.address.as_socket().unwrap().port();
    expect_served(&[&format!("localhost:{port}")], &four.socket);
}

/// Sends a line each way.
fn expect_served(arguments: &[&str], listener: &Socket) {
    let mut program = piped(arguments);
    program.stdin().write_all(b"request").unwrap();
    let mut server = listener.accept().unwrap().0;
    assert_eq!(read_to_end(&mut server), (b"request".to_vec(), End::Clean));
    server.write_all(b"answer").unwrap();
    drop(server);
    let answer = read_to_end(&mut program.stdout());
    assert_eq!(answer, (b"answer".to_vec(), End::Clean));
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    assert_eq!(program.log, [""; 0], "{arguments:?}");
}

fn expect_line(finished: &Finished, code: i32, words: &[&str]) {
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    assert!(line.starts_with("vsock-connect: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
    assert_eq!((finished.code, &*finished.stdout), (code, ""), "{line}");
}

#[test]
fn what_names_no_machine_exits_2_with_one_line() {
    for host in [
        "",
        "0",
        "-1",
        "+3",
        " 3",
        "3 ",
        "03",
        "0x3",
        "3.5",
        "1e3",
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "any",
        "nobody",
        "3.example",
        "vsock",
        "vsock/",
        "vsock/0",
        "vsock/-1",
        "vsock/4294967295",
        "vsock/x",
        "vsock/ 3",
        "vsock%",
        "vsock%%3",
        "vsock/3/4",
        "vsock:3",
        "vsock::22",
        "vsock:3:",
        "vsock:3:x",
        "vsock:x:22",
        "vsock:3:4294967295",
        "unix/",
        "unix",
        "vsock-mux/",
        "vsock-mux",
        "vsock-mux:/x",
        "vsock-mux:x:22",
        "::1",
        "::",
        "fd00:9::3",
        "fd00:1:2:3::",
        "fd00:1:2:3::ffff:ffff",
        "fd00:1:2:3:1::3",
        "[fd00:1:2:3::]",
        "fe80::1%lo",
        "[::1]",
        "[::1]:0",
        "[::1]:65536",
        "127.0.0.1:",
        "localhost:",
        "localhost:ssh",
        "3\n",
        "3\r",
        "$(reboot)",
        "`reboot`",
        ";reboot",
        "drei\u{301}",
        "/",
        "@",
        "3,4",
        ".vsock",
        "vsock.vsock",
    ] {
        // `-1` would be an option.
        let finished = finish(connect(&["--", host]));
        expect_line(&finished, 2, &[]);
    }
    let long = format!("unix/{}", "x/".repeat(2048));
    expect_line(&finish(connect(&[long])), 2, &["4095 bytes"]);
}

#[test]
fn what_is_right_elsewhere_exits_2_with_the_form_that_is_right_here() {
    for (arguments, form) in [
        (&["3:22"][..], "`vsock-connect 3 22`"),
        (&["-p", "22", "3"], "`vsock-connect 3 22`"),
        (&["3", "-p22"], "`vsock-connect 3 22`"),
        (&["user@3"], "`ssh user@vsock/3`"),
        (&["qemu/web"], "write libvirt/web"),
        (&["qemu:system/web", "22"], "write libvirt/web"),
        (&[".host"], "write unix/run/ssh-unix-local/socket"),
        (&["tcp:localhost:22"], "write localhost:22"),
        (&["web:22"], "write vsock:web:22"),
        (&["host:22"], "write vsock:host:22"),
        (&["db.vsock:22"], "write vsock:db:22"),
    ] {
        let mut connect = connect(arguments);
        connect.env("VSOCK_BRIDGE_NAMES", "web=3");
        expect_line(&finish(connect), 2, &[form]);
    }
}

#[test]
fn what_is_no_port_exits_2_with_one_line() {
    for port in [
        "",
        "x",
        "-1",
        "+22",
        " 22",
        "22 ",
        "022",
        "4294967295",
        "ssh",
        "22\n",
    ] {
        let finished = finish(connect(&["--", "vsock-mux/run/x", port]));
        expect_line(&finished, 2, &["port"]);
    }
}

#[test]
fn wrong_options_exit_2_with_one_line() {
    for arguments in [
        &[][..],
        &["/run/x", "22"],
        &["[::1]:22", "22"],
        &["/run/x", "22", "more"],
        &["--nonsense", "/run/x"],
        &["--wait", "5x", "/run/x"],
        &["--wait", "-1s", "/run/x"],
        &["--connect-timeout", "x", "/run/x"],
        &["--prefix", "fd00::/48", "/run/x"],
    ] {
        expect_line(&finish(connect(arguments)), 2, &[]);
    }
}

#[test]
fn what_cannot_be_reached_exits_255_with_one_line() {
    let missing = own_folder();
    let missing = missing.path().join("missing");
    let expect = |host: &str, words: &[&str]| {
        let words = [words, &[host]].concat();
        expect_line(&finish(connect(&[host])), 255, &words);
    };
    expect(missing.to_str().unwrap(), &["No such file"]);
    for kind in Kind::ALL {
        expect(&Place::bound(kind).text, &["nothing listens"]);
    }
    let finished = finish(connect(&["no-such-name.invalid:22"]));
    expect_line(&finished, 255, &["cannot resolve", "no-such-name.invalid"]);
}

#[test]
fn the_queue_stays_full_exits_255_after_the_connect_timeout() {
    let place = Place::bound(Kind::Unix);
    place.socket.listen(0).unwrap();
    let _waiting = place.connect();
    let started = Instant::now();
    let finished = finish(connect(&["--connect-timeout", "300ms", &place.text]));
    expect_line(&finished, 255, &["its queue is full"]);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn nobody_comes_while_it_waits_quietly_exits_255() {
    let place = Place::bound(Kind::Tcp6);
    let started = Instant::now();
    let finished = finish(connect(&["-q", "--wait", "300ms", &place.text]));
    expect_line(&finished, 255, &["nothing listens"]);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn the_machine_comes_up_while_it_waits_exits_0_and_one_line_says_why_it_waited() {
    for kind in Kind::ALL {
        for (time, words) in [
            ("1h", "; trying again for 1h"),
            ("infinity", "; trying again until it answers"),
        ] {
            let place = Place::bound(kind);
            let mut program = piped(&["--wait", time, &place.text]);
            let line = program.wait_for_line(words);
            let begin = format!("vsock-connect: info: cannot connect to {}", place.text);
            assert!(line.starts_with(&begin), "{line}");
            place.socket.listen(1).unwrap();
            drop(place.accept());
            drop(program.stdin());
            assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
            assert_eq!(program.log.len(), 1, "{:#?}", program.log);
        }
    }
}

#[test]
fn fdpass_hands_one_blocking_socket_over_and_exits_and_the_connection_goes_on() {
    let content = Content::new(51);
    for kind in Kind::ALL {
        let place = Place::listening(kind);
        let (ours, theirs) = pair_of_sockets();
        let mut command = connect(&["--fdpass", &place.text]);
        command.stdout(OwnedFd::from(theirs));
        let mut program = Program::start(command);
        let mut server = place.accept();
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
        let passed = passed(&ours);
        let flags = OFlag::from_bits_retain(fcntl(&passed, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        // One byte came with it, and then nothing more.
        assert_eq!(read_to_end(&mut &ours), (vec![], End::Clean));
        let mut client = Socket::from(passed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                content.send(&mut server, 5 << 20);
                drop(server);
            });
            content.expect_all(&mut client, 5 << 20);
        });
    }
}

/// As libraries of SSH run it that read the configuration of ssh(1).
#[test]
fn fdpass_between_pipes_relays() {
    let place = Place::listening(Kind::Unix);
    let mut program = piped(&["--fdpass", &place.text]);
    let (mut stdin, mut stdout) = (program.stdin(), program.stdout());
    let mut server = place.accept();
    server.write_all(b"SSH-2.0-server\r\n").unwrap();
    let mut line = [0; 16];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-server\r\n");
    stdin.write_all(b"SSH-2.0-client\r\n").unwrap();
    server.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-client\r\n");
    drop((stdin, server));
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
}

#[test]
fn fdpass_with_one_pair_of_sockets_and_a_program_that_speaks_first_relays() {
    let place = Place::listening(Kind::Unix);
    let (mut ours, theirs) = pair_of_sockets();
    let mut command = connect(&["--fdpass", &place.text]);
    command.stdin(OwnedFd::from(theirs.try_clone().unwrap()));
    command.stdout(OwnedFd::from(theirs));
    let mut program = Program::start(command);
    let mut server = place.accept();
    ours.write_all(b"SSH-2.0-client\r\n").unwrap();
    let mut line = [0; 16];
    server.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-client\r\n");
    server.write_all(b"SSH-2.0-server\r\n").unwrap();
    ours.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-server\r\n");
    drop((ours, server));
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
}

#[test]
fn fdpass_with_one_pair_of_sockets_and_a_program_that_is_silent_hands_the_socket_over() {
    let place = Place::listening(Kind::Unix);
    let (ours, theirs) = pair_of_sockets();
    let mut command = connect(&["--fdpass", &place.text]);
    command.stdin(OwnedFd::from(theirs.try_clone().unwrap()));
    command.stdout(OwnedFd::from(theirs));
    let mut program = Program::start(command);
    let mut server = place.accept();
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    crate::common::place::ping(&mut Socket::from(passed(&ours)), &mut server);
}

#[test]
fn fdpass_without_a_reader_exits_255() {
    let place = Place::listening(Kind::Tcp6);
    let (ours, theirs) = pair_of_sockets();
    drop(ours);
    let mut command = connect(&["--fdpass", &place.text]);
    command.stdout(OwnedFd::from(theirs));
    let mut program = Program::start(command);
    let mut server = place.accept();
    assert_eq!(program.exit_code(), 255, "{:#?}", program.log);
    let mut bytes = Vec::new();
    assert!(server.read_to_end(&mut bytes).is_ok() && bytes.is_empty());
}

/// A server that sends a line and its end, and then reads to the end.
fn serve_once(listener: &Place) -> std::thread::JoinHandle<Vec<u8>> {
    let listener = listener.socket.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut server = listener.accept().unwrap().0;
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        // A program that does not read may have gone by now.
        let _ = server.write_all(b"from the server\n");
        let _ = server.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut server).0
    })
}

#[test]
fn exec_runs_a_program_with_the_socket_and_exits_as_it_does() {
    for kind in Kind::ALL {
        let listener = Place::listening(kind);
        let server = serve_once(&listener);
        let script = "read -r line; echo \"got $line\"; exit 7";
        let finished = finish(connect(&[&listener.text, "--exec", "sh", "-c", script]));
        assert_eq!((finished.code, &*finished.stdout), (7, ""), "{finished:#?}");
        assert_eq!(server.join().unwrap(), b"got from the server\n");
    }
}

#[test]
fn exec_with_a_number_leaves_stdin_and_stdout_alone() {
    let listener = Place::listening(Kind::Tcp6);
    // Those that this program needs itself, and one that it does not.
    for number in ["3", "4", "5", "6", "7", "9"] {
        let server = serve_once(&listener);
        let script = format!("cat <&{number}; echo to the server >&{number}");
        // Whoever has started the tests may have left it open.
        let mut connect = command("sh");
        with_own_settings(&mut connect)
            .args(["-c", &format!("exec {number}<&-; exec \"$@\""), "sh"])
            .arg(ours("vsock-connect"))
            .args([&*listener.text, "--fd", number])
            .args(["--exec", "sh", "-c", &script]);
        let finished = finish(connect);
        assert_eq!(
            (finished.code, &*finished.stdout),
            (0, "from the server\n"),
            "{finished:#?}"
        );
        assert_eq!(server.join().unwrap(), b"to the server\n", "{number}");
    }
}

#[test]
fn exec_takes_the_rest_of_the_line_whatever_it_looks_like() {
    let listener = Place::listening(Kind::Unix);
    let server = serve_once(&listener);
    let finished = finish(connect(&[
        &listener.text,
        "--exec",
        "echo",
        "-n",
        "--wait",
        "--",
        "-v",
    ]));
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert_eq!(server.join().unwrap(), b"--wait -- -v");
    let server = serve_once(&listener);
    let finished = finish(connect(&[
        &listener.text,
        "--exec",
        "--",
        "echo",
        "-n",
        "--",
    ]));
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert_eq!(server.join().unwrap(), b"--");
}

#[test]
fn a_program_that_is_not_there_exits_255_with_one_line() {
    let listener = Place::listening(Kind::Unix);
    for (program, words) in [
        ("/nonexistent/program", "No such file"),
        ("nonexistent-program", "No such file"),
        ("/etc/passwd", "Permission denied"),
        ("/etc", "Permission denied"),
    ] {
        let finished = finish(connect(&[&listener.text, "--exec", program]));
        let line = format!("cannot run {program}: ");
        expect_line(&finished, 255, &[&line, words]);
    }
    // It is found before the machine is connected to.
    assert!(listener.has_nobody_waiting());
}

/// What the kernel alone knows is found when the machine is connected to.
#[test]
fn a_program_that_the_kernel_refuses_resets_the_target() {
    let (listener, folder) = (Place::listening(Kind::Tcp6), own_folder());
    let script = folder.path().join("script");
    fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let finished = finish(connect(&[
        &listener.text,
        "--exec",
        script.to_str().unwrap(),
    ]));
    expect_line(&finished, 255, &["cannot run ", "No such file"]);
    assert_eq!(listener.accept().read(&mut [0]).ok(), None);
}

#[test]
fn a_descriptor_that_cannot_be_the_socket_exits_2_with_one_line() {
    let listener = Place::listening(Kind::Unix);
    for (arguments, word) in [
        (
            &["--fd", "2", "--exec", "true"][..],
            "--fd: \"2\" is not a valid number of a descriptor: expected one from 3 to 1023",
        ),
        (
            &["--fd", "1024", "--exec", "true"],
            "expected one from 3 to 1023",
        ),
        (
            &["--fd", "x", "--exec", "true"],
            "expected one from 3 to 1023",
        ),
        (&["--fd", "3"], "--exec"),
        (&["--fdpass", "--exec", "true"], "--fdpass"),
        (&["--exec"], "--exec"),
        (&["--exec", "", "x"], "the name of the program is empty"),
        (
            &["--exec", "tar -c /srv"],
            "no program is named \"tar -c /srv\": write it and each of its arguments as words",
        ),
    ] {
        let finished = finish(connect(&[&[&*listener.text], arguments].concat()));
        expect_line(&finished, 2, &[word]);
    }
    let mut limited = command("bash");
    let script = "ulimit -n 100; exec \"$0\" \"$1\" --fd 500 --exec true";
    limited
        .args(["-c", script])
        .arg(ours("vsock-connect"))
        .arg(&listener.text);
    expect_line(&finish(limited), 2, &["--fd 500", "above 99", "ulimit -n"]);
    let mut shell = command("bash");
    let script = "exec 9</dev/null; exec \"$0\" \"$1\" --fd 9 --exec true";
    shell
        .args(["-c", script])
        .arg(ours("vsock-connect"))
        .arg(&listener.text);
    expect_line(&finish(shell), 2, &["--fd 9", "is open already"]);
    assert!(listener.has_nobody_waiting());
}

#[test]
fn help_and_version_exit_0() {
    for option in ["--help", "--version"] {
        let finished = finish(connect(&[option]));
        assert_eq!(finished.code, 0);
        assert!(finished.stdout.contains("vsock-connect"), "{finished:?}");
    }
}
