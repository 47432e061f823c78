//! Wrong sockets, wrong environment, wrong options: one line that names the object and the remedy, exit 1 (2 for what
//! was typed), and nothing is opened.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

use crate::common::bridge::Bridge;
use crate::common::place::{Kind, Place, stream};
use crate::common::program::Finished;
use crate::common::{own_folder, skipped};
use socket2::{Domain, Socket, Type};

/// Checks for one line with all the words.
fn expect_line(finished: &Finished, code: i32, words: &[&str]) {
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    assert!(line.starts_with("vsock-bridge: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
    assert_eq!(finished.code, code, "{line}");
    assert_eq!(finished.stdout, "");
}

/// Returns a bridge a listener and a target, and checks that it refuses and the target hears nothing.
fn expect_refusal(code: i32, words: &[&str], change: impl FnOnce(Bridge) -> Bridge) {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let client = listener.connect();
    let bridge = change(Bridge::to(&target.text).listener(&listener));
    // Shown if the test fails.
    eprintln!("{bridge:?}");
    let finished = bridge.finish();
    expect_line(&finished, code, words);
    assert!(target.has_nobody_waiting());
    // The client still waits for somebody who can serve it.
    drop((listener.accept(), client));
}

#[test]
fn no_socket_is_passed() {
    let remedy = "start the socket unit";
    let refusal = |words: &[&str], change: fn(Bridge) -> Bridge| {
        expect_refusal(1, &[words, &[remedy]].concat(), change);
    };
    refusal(&["LISTEN_FDS is not set"], |b| {
        b.without_variable("LISTEN_FDS").without_pid()
    });
    refusal(&["LISTEN_FDS is not set"], |b| {
        b.without_variable("LISTEN_FDS")
    });
    refusal(&["LISTEN_FDS is 0"], |b| b.variable("LISTEN_FDS", "0"));
}

#[test]
fn listen_fds_is_no_number() {
    for text in [
        "",
        "x",
        "-1",
        "1x",
        " 1",
        "1 ",
        "1.0",
        "4294967296",
        "99999999999999999999",
    ] {
        expect_refusal(1, &["LISTEN_FDS"], |b| b.variable("LISTEN_FDS", text));
    }
    let not_utf8 = OsStr::from_bytes(b"\xff");
    expect_refusal(1, &["LISTEN_FDS"], |b| b.variable("LISTEN_FDS", not_utf8));
}

#[test]
fn listen_fds_counts_more_than_was_passed() {
    for text in ["100", "2147483644", "2147483647", "4294967295"] {
        expect_refusal(1, &["LISTEN_FDS"], |b| b.variable("LISTEN_FDS", text));
    }
}

#[test]
fn listen_pid_is_not_this_process() {
    expect_refusal(1, &["LISTEN_PID is not set"], Bridge::without_pid);
    let foreign = std::process::id().to_string();
    expect_refusal(1, &["LISTEN_PID", &foreign], |b| b.pid(&foreign));
    for text in ["", "0", "-1", "1", "x", "+1", "99999999999999999999"] {
        expect_refusal(1, &["LISTEN_PID"], |b| b.pid(text));
    }
}

#[test]
fn names_do_not_fit_the_sockets() {
    for names in ["a:b", "a:b:c", ":"] {
        expect_refusal(1, &["LISTEN_FDNAMES"], |b| {
            b.variable("LISTEN_FDNAMES", names)
        });
    }
    let second = Place::listening(Kind::Unix);
    expect_refusal(1, &["LISTEN_FDNAMES"], |b| {
        b.listener(&second).variable("LISTEN_FDNAMES", "one")
    });
    let not_utf8 = OsStr::from_bytes(b"\xff\xfe");
    expect_refusal(1, &["LISTEN_FDNAMES"], |b| {
        b.variable("LISTEN_FDNAMES", not_utf8)
    });
}

/// Passes one thing beside a good listener.
fn expect_refused_descriptor(thing: impl Into<OwnedFd>, words: &[&str]) {
    let words = [words, &["descriptor 4", "odd"]].concat();
    expect_refusal(1, &words, |b| {
        b.descriptor(thing).variable("LISTEN_FDNAMES", "good:odd")
    });
}

#[test]
fn a_descriptor_is_no_socket() {
    let remedy = ["not a socket", "ListenStream="];
    expect_refused_descriptor(tempfile::tempfile().unwrap(), &remedy);
    expect_refused_descriptor(nix::unistd::pipe().unwrap().0, &remedy);
    expect_refused_descriptor(std::fs::File::open("/dev/null").unwrap(), &remedy);
    expect_refused_descriptor(std::fs::File::open("/").unwrap(), &remedy);
}

#[test]
fn a_socket_has_no_stream() {
    let remedy = ["not a stream socket", "ListenStream="];
    let datagram = |domain| Socket::new(domain, Type::DGRAM, None).unwrap();
    expect_refused_descriptor(datagram(Domain::IPV6), &remedy);
    expect_refused_descriptor(datagram(Domain::IPV4), &remedy);
    expect_refused_descriptor(UnixDatagram::unbound().unwrap(), &remedy);
    let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    let directory = own_folder();
    let path = directory.path().join("socket");
    packets
        .bind(&socket2::SockAddr::unix(path).unwrap())
        .unwrap();
    packets.listen(1).unwrap();
    expect_refused_descriptor(packets, &remedy);
    let (one, _other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    expect_refused_descriptor(one, &remedy);
}

#[test]
fn a_socket_neither_listens_nor_is_connected() {
    for kind in Kind::ALL {
        expect_refused_descriptor(stream(kind), &[]);
        expect_refused_descriptor(Place::bound(kind).descriptor(), &[]);
    }
}

#[test]
fn a_wrong_socket_alone_is_refused_too() {
    let target = Place::listening(Kind::Tcp6);
    for kind in Kind::ALL {
        let finished = Bridge::to(&target.text).descriptor(stream(kind)).finish();
        expect_line(&finished, 1, &["descriptor 3"]);
    }
}

#[test]
fn the_target_is_missing_or_no_address() {
    let listener = Place::listening(Kind::Tcp6);
    let refused = |bridge: Bridge, words: &[&str]| {
        expect_line(&bridge.listener(&listener).finish(), 2, words);
    };
    refused(Bridge::bare(), &["--to", "VSOCK_BRIDGE_TO", "[::1]:445"]);
    for (text, remedy) in [
        ("445", "[::1]:445"),
        ("vsock:4711", "vsock:host:4711"),
        ("vsock::445", "vsock:host:445"),
        ("vsock:4294967295:1", "1 to 4294967294"),
        ("vsock:2:4294967295", "0 to 4294967294"),
        ("vsock:2:445x", "0 to 4294967294"),
        ("::1:445", "[::1]:445"),
        ("::1", "[::1]:445"),
        ("[::1]", "[::1]:445"),
        ("[::1]:0", "1 to 65535"),
        ("[::1]:65536", "1 to 65535"),
        ("[fe80::1%lo]:445", "link-local"),
        ("[fe80::1]:445", "link-local"),
        ("127.0.0.1", "127.0.0.1:445"),
        ("localhost", "name:445"),
        ("local host:445", "name:445"),
        ("run/x.sock", "such as /run/x.sock"),
        ("@", "empty"),
        ("vsock-mux:/run/x", "vsock-mux:/run/vm.vsock:22"),
        ("", "the port is missing"),
        ("[::1]:445\nVSOCK", "1 to 65535"),
    ] {
        refused(Bridge::bare().arguments(&["--to", text]), &[remedy]);
        refused(Bridge::bare().variable("VSOCK_BRIDGE_TO", text), &[remedy]);
    }
    let long = format!("@{}", "x".repeat(108));
    refused(Bridge::to(&long), &["107 bytes"]);
    refused(Bridge::to(&"/x".repeat(2048)), &["4095 bytes"]);
    refused(Bridge::to(&format!("/{}", "x".repeat(256))), &["255 bytes"]);
    let not_utf8 = OsStr::from_bytes(b"/\xff");
    refused(Bridge::bare().variable("VSOCK_BRIDGE_TO", not_utf8), &[]);
}

#[test]
fn a_variable_is_known_to_no_option() {
    let words = [
        "VSOCK_BRIDGE_ALOW_CID",
        "did you mean VSOCK_BRIDGE_ALLOW_CID?",
    ];
    expect_refusal(2, &words, |b| b.variable("VSOCK_BRIDGE_ALOW_CID", "3"));
    expect_refusal(2, &["VSOCK_BRIDGE_XY"], |b| {
        b.variable("VSOCK_BRIDGE_XY", "3")
    });
}

#[test]
fn names_are_wrong_and_one_is_needed() {
    for names in [
        "web",
        "web=0",
        "web=x",
        "3=4",
        "3-7=4",
        "any=3",
        "web=3 Web=4",
        "web=3,db=4",
    ] {
        let wanting = |b: Bridge| b.arguments(&["--allow-cid", "web"]);
        let words = ["VSOCK_BRIDGE_NAMES: "];
        expect_refusal(2, &words, |b| wanting(b.arguments(&["--names", names])));
        expect_refusal(2, &words, |b| {
            wanting(b.variable("VSOCK_BRIDGE_NAMES", names))
        });
    }
}

#[test]
fn an_option_has_no_valid_value() {
    for (option, values) in [
        (
            "source",
            &["x", "127.0.0.1:22", "[::1]", "127.0.0", "Mapped", ""][..],
        ),
        (
            "prefix",
            &["x", "fd00::/48", "2001:db8::/64", "fd00::1/64", ""],
        ),
        (
            "allow-cid",
            &["0", "3,,4", "7-3", "3;4", "4294967295", "mapped", ""],
        ),
        ("max-connections", &["x", "0", "-1", "1000001", "1e3", ""]),
        ("max-connections-per-peer", &["x", "0", "-1", "1000001", ""]),
        (
            "connect-timeout",
            &["x", "0", "-5", "-5s", "5x", "1000years", ""],
        ),
        ("connect-retry", &["x", "-5s", "never", ""]),
        (
            "idle-timeout",
            &["x", "0", "-5s", "99999999999999999999s", ""],
        ),
        ("half-close-timeout", &["x", "none", "never", ""]),
        ("exit-idle-time", &["x", "none", "never", ""]),
        ("drain-timeout", &["x", "10 m s", ""]),
        ("keepalive", &["x", "no", "-1s", ""]),
        ("vsock-buffer", &["x", "0", "1KiB", "1GiB", "-1MiB", ""]),
        ("mux-answer", &["x", "OK", "auto", ""]),
        ("vsock-packet", &["x", "0", "1000", "65KiB", "none", ""]),
    ] {
        let variable = format!("VSOCK_BRIDGE_{}", option.to_uppercase().replace('-', "_"));
        for value in values {
            let argument = format!("--{option}={value}");
            let name = format!("--{option}");
            expect_refusal(2, &[&name], |b| b.arguments(&[&argument]));
            let name = format!("environment: {variable}: ");
            expect_refusal(2, &[&name], |b| b.variable(&variable, value));
        }
    }
}

/// Its machine may come later, so that only --check refuses it.
#[test]
fn a_name_is_nobodys() {
    for list in ["nobody", "3,nobody.vsock", "Nobody,web"] {
        expect_refusal(
            2,
            &["\"nobody\"", "/etc/vsock-bridge/vsock-bridge.conf"],
            |b| b.arguments(&["--names=web=3", "--allow-cid", list, "--check"]),
        );
    }
}

/// DNS may have another one, or none.
#[test]
fn the_target_is_a_machine_named_as_a_host() {
    for (target, form) in [
        ("web:445", "write vsock:web:445"),
        ("host:445", "write vsock:host:445"),
        ("3.vsock:445", "write vsock:3:445"),
    ] {
        let listener = Place::listening(Kind::Tcp6);
        let bridge = || Bridge::to(target).listener(&listener);
        for more in [&[][..], &["--check"]] {
            let arguments = [&["--names", "web=3"], more].concat();
            let finished = bridge().arguments(&arguments).finish();
            expect_line(&finished, 2, &[form, target]);
        }
        let finished = bridge().variable("VSOCK_BRIDGE_NAMES", "web=3").finish();
        expect_line(&finished, 2, &[form, target]);
    }
}

#[test]
fn an_option_is_unknown_or_lacks_its_value() {
    for (arguments, word) in [
        (&["--idle-timout", "5s"][..], "--idle-timout"),
        (&["--idle-timeout"], "--idle-timeout"),
        (&["stray"], "stray"),
        (
            &["--idle-timeout", "1s", "--idle-timeout", "2s"],
            "--idle-timeout",
        ),
        (&["-x"], "-x"),
    ] {
        expect_refusal(2, &[word, "--help"], |b| b.arguments(arguments));
    }
}

#[test]
fn options_do_not_go_together() {
    let listener = Place::listening(Kind::Tcp6);
    for (target, source) in [
        ("127.0.0.1:1", "::1"),
        ("[::1]:1", "127.0.0.1"),
        ("127.0.0.1:1", "mapped"),
        ("/run/x.sock", "127.0.0.1"),
        ("/run/x.sock", "mapped"),
    ] {
        let finished = Bridge::to(target)
            .arguments(&["--source", source])
            .listener(&listener)
            .finish();
        expect_line(&finished, 2, &["--source", target]);
    }
}

#[test]
fn the_mapped_source_has_no_route_and_the_line_names_the_unit() {
    let words = ["fd12:3456:789a:bcde::/64", "vsock-bridge-prefix.service"];
    expect_refusal(1, &words, |b| {
        b.arguments(&["--source", "mapped", "--prefix", "fd12:3456:789a:bcde::/64"])
    });
}

#[test]
fn a_name_does_not_resolve_and_the_line_names_it() {
    let listener = Place::listening(Kind::Tcp6);
    let finished = Bridge::to("no-such-name.invalid:445")
        // Bounds the search where no resolver answers (resolv.conf(5)).
        .variable("RES_OPTIONS", "timeout:1 attempts:1")
        .listener(&listener)
        .finish();
    expect_line(&finished, 1, &["no-such-name.invalid", "cannot resolve"]);
}

/// Neither is needed by a bridge that has its sockets.
#[test]
fn no_proc_no_run_no_vsock_device_the_bridge_serves() {
    let target = Place::listening(Kind::Tcp6);
    let listener = Place::listening(Kind::Tcp6);
    let Some(bridge) = Bridge::to(&target.text).with_hidden(&["/proc", "/run", "/dev"]) else {
        return skipped("no mount namespaces here");
    };
    let mut bridge = bridge.listener(&listener).start();
    let mut client = listener.connect();
    crate::common::place::ping(&mut client, &mut target.accept());
    drop(client);
    bridge.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(bridge.exit_code(), 0);
}
