//! Where a bridge cannot listen, or should not: one line that names the address and what to do, and nothing is left.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use socket2::Domain;

use crate::common::bridge::{Bridge, works};
use crate::common::place::{Kind, Place, ping, stream};
use crate::common::spot::{Spot, alone, expect_line};
use crate::common::{own_folder, skipped};

#[test]
fn a_socket_was_passed_as_well_it_is_refused_and_the_client_still_waits() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let client = listener.connect();
    let spot = Spot::new(Kind::Unix);
    let finished = Bridge::to(&target.text)
        .listener(&listener)
        .arguments(&["--listen", &spot.text])
        .finish();
    expect_line(
        &finished,
        2,
        &[
            "systemd has passed sockets",
            "VSOCK_BRIDGE_LISTEN",
            "ListenStream=",
        ],
    );
    assert!(!spot.file().exists());
    drop((listener.accept(), client));
}

#[test]
fn nothing_says_where_to_listen_the_line_names_both_ways() {
    let target = Place::listening(Kind::Tcp6);
    let words = [
        "systemctl start vsock-bridge@445.socket",
        "--listen vsock::445",
    ];
    expect_line(&alone(&target).finish(), 1, &words);
}

#[test]
fn one_of_several_cannot_be_had_nothing_is_left_of_the_others() {
    let (target, used) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp4));
    let (unix, tcp) = (Spot::new(Kind::Unix), Spot::new(Kind::Tcp6));
    let list = format!("{} {} {}", unix.text, tcp.text, used.text);
    let finished = alone(&target)
        .variable("VSOCK_BRIDGE_LISTEN", list)
        .finish();
    let port = used.address.as_socket().unwrap().port();
    let command = format!("`ss -tlnp sport = :{port}`");
    expect_line(
        &finished,
        1,
        &["cannot listen on", &used.text, &command, "in use"],
    );
    assert!(!unix.file().exists());
    assert!(used.has_nobody_waiting());
}

#[test]
fn an_ipv6_listener_takes_ipv4_as_well_the_line_says_so() {
    let target = Place::listening(Kind::Unix);
    let both = fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap_or_default();
    if both.trim() != "0" {
        return skipped("net.ipv6.bindv6only is set");
    }
    let spot = Spot::tcp(Domain::IPV6, "[::]:0");
    let port = spot.address.as_socket().unwrap().port();
    for (first, second, said) in [
        ("[::]", "0.0.0.0", "takes this address as well"),
        ("[::1]", "[::]", "leave that one out"),
        ("127.0.0.1", "0.0.0.0", "leave that one out"),
        ("127.0.0.1", "[::]", "leave that one out"),
    ] {
        let (first, second) = (format!("{first}:{port}"), format!("{second}:{port}"));
        let finished = alone(&target)
            .variable("VSOCK_BRIDGE_LISTEN", format!("{first} {second}"))
            .finish();
        let cannot = format!("cannot listen on {second}");
        expect_line(&finished, 1, &[&cannot, &first, "given before it", said]);
    }
    let mut bridge = alone(&target).arguments(&["--listen", &spot.text]).start();
    bridge.wait_for_line("bridging");
    let client = stream(Kind::Tcp4);
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    client.connect(&address.into()).unwrap();
    ping(&mut { client }, &mut target.accept());
    bridge.stop();
}

#[test]
fn an_address_cannot_be_listened_on_the_line_says_why() {
    let target = Place::listening(Kind::Tcp6);
    let folder = own_folder();
    let missing = folder.path().join("no/socket").to_str().unwrap().to_owned();
    let refused = |address: &str, words: &[&str]| {
        let finished = alone(&target).arguments(&["--listen", address]).finish();
        expect_line(
            &finished,
            1,
            &[words, &["cannot listen on", address]].concat(),
        );
    };
    refused(&missing, &["its folder has to be made first"]);
    refused(
        "[fd00:1:2:3::2]:4450",
        &["no address of this machine", "`vsockctl prefix up`"],
    );
    refused("192.0.2.1:4450", &["no address of this machine"]);
    let long = format!("{}/{}", folder.path().display(), "x".repeat(200));
    refused(&long, &["107 bytes"]);
    let [first, again] = ["a.sock", "x/../a.sock"].map(|name| folder.path().join(name));
    fs::create_dir(folder.path().join("x")).unwrap();
    let [first, again] = [&first, &again].map(|path| path.to_str().unwrap());
    let list = format!("{first} {again}");
    let finished = alone(&target).arguments(&["--listen", &list]).finish();
    let same = format!("{first}, given before it, is the same file");
    expect_line(&finished, 1, &["cannot listen on", again, &same]);
}

#[test]
fn a_port_or_folder_is_not_this_users_the_line_says_what_is_needed() {
    let drop = "setpriv --bounding-set=-net_bind_service --inh-caps=-all";
    let is_root = nix::unistd::geteuid().is_root();
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let is_free = first.ok().and_then(|text| text.trim().parse::<u16>().ok()) <= Some(1);
    let target = Place::listening(Kind::Tcp6);
    if is_free || is_root && !works(&format!("{drop} true")) {
        skipped("everybody may listen on port 1 here");
    } else {
        let mut bridge = alone(&target).arguments(&["--listen", "[::1]:1"]);
        if is_root {
            bridge = bridge.wrapped(drop.to_owned());
        }
        expect_line(
            &bridge.finish(),
            1,
            &["[::1]:1", "below 1024 needs root or CAP_NET_BIND_SERVICE"],
        );
    }
    let spot = Spot::new(Kind::Unix);
    let folder = spot.file().parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).unwrap();
    let Some(bridge) = alone(&target).without_root_rights() else {
        return skipped("root keeps its rights here");
    };
    let finished = bridge.arguments(&["--listen", &spot.text]).finish();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    expect_line(&finished, 1, &["may this user make files in its folder"]);
}

/// Nothing opens such a socket: the kernel is not asked, the answer of one without vsock is put in its place.
#[test]
fn the_kernel_has_no_vsock_or_a_sandbox_refuses_it_the_line_says_so() {
    let target = Place::listening(Kind::Unix);
    for (error, word) in [("EAFNOSUPPORT", "`modprobe vsock`"), ("EPERM", "seccomp")] {
        let tracer =
            format!("strace -f -qq -o /dev/null -e trace=socket -e inject=socket:error={error}");
        if !works(&format!("{tracer} true")) {
            return skipped("no strace here");
        }
        let bridge = alone(&target)
            .arguments(&["--listen", "vsock::44500"])
            .wrapped(tracer);
        expect_line(
            &bridge.finish(),
            1,
            &["cannot listen on vsock::44500", word],
        );
    }
}

#[test]
fn an_address_is_none_one_line_with_the_right_form() {
    let target = Place::listening(Kind::Tcp6);
    for (text, hint) in [
        ("", "empty"),
        ("445", "vsock::445 or [::1]:445"),
        (":445", "[::]:445"),
        ("*:445", "[::]:445"),
        ("vsock:445", "vsock::445"),
        ("vsock:any:445", "vsock::445"),
        ("vsock:nobody:445", "VSOCK_BRIDGE_NAMES=\"nobody=3\""),
        ("VSOCK-LISTEN:445", "vsock::445"),
        ("localhost:445", "[::1]:445"),
        ("[::1]", "the port is missing"),
        ("[::1]:0", "1 to 65535"),
        ("[::1]:445x", "1 to 65535"),
        ("::1:445", "[::1]:445"),
        ("[::1]:mapped", "`mapped` is for targets"),
        ("vsock-mux:/run/vm.vsock:445", "/run/vm.vsock_445"),
        ("[fe80::1]:445", "link-local"),
        ("[fe80::1%lo]:445", "link-local"),
        ("224.0.0.1:445", "multicast"),
        ("a.sock", "from the root on, such as /run/a.sock"),
        ("./socket", "such as /run/socket"),
        ("unix:socket", "an absolute path or @name"),
        ("[::1]:4450,[::1]:4451", "spaces, not commas"),
        ("@a @b @a", "@a is given twice"),
        ("@a unix:@a", "@a is given twice"),
        ("/x/a /x//a", "/x//a is given twice, once as /x/a,"),
    ] {
        let option = alone(&target).arguments(&[format!("--listen={text}")]);
        expect_line(&option.finish(), 2, &[hint]);
        let variable = alone(&target).variable("VSOCK_BRIDGE_LISTEN", text);
        expect_line(&variable.finish(), 2, &[hint]);
        let check = Bridge::to(&target.text).variable("VSOCK_BRIDGE_LISTEN", text);
        expect_line(
            &check.arguments(&["--check"]).finish(),
            2,
            &["environment: VSOCK_BRIDGE_LISTEN", hint],
        );
    }
    for text in ["", "8", "0888", "rw", "0o660", "1777"] {
        let mode = alone(&target).variable("VSOCK_BRIDGE_LISTEN_MODE", text);
        expect_line(&mode.finish(), 2, &["VSOCK_BRIDGE_LISTEN_MODE", "0660"]);
    }
}

#[test]
fn the_check_opens_nothing() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Unix);
    let finished = Bridge::to(&target.text)
        .variable(
            "VSOCK_BRIDGE_LISTEN",
            format!("{} vsock::445 [::]:80", spot.text),
        )
        .arguments(&["--check"])
        .finish();
    assert_eq!((finished.code, finished.stderr), (0, vec![]));
    assert!(!spot.file().exists());
}

#[test]
fn the_target_is_the_listener_it_is_refused_and_nothing_is_left() {
    for kind in Kind::ALL {
        let spot = Spot::new(kind);
        let finished = Bridge::to(&spot.text)
            .without_variable("LISTEN_FDS")
            .arguments(&["--listen", &spot.text])
            .finish();
        expect_line(&finished, 2, &[&spot.text, "leads back"]);
        assert!(!spot.file().exists());
    }
}

#[test]
fn a_list_of_machines_is_given_and_no_listener_is_vsock_it_is_warned_of() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Tcp6);
    let arguments = ["--listen", &spot.text, "--allow-cid", "3"];
    let mut bridge = alone(&target).arguments(&arguments).start();
    bridge.wait_for_line("VSOCK_BRIDGE_ALLOW_CID=3 has no effect");
    bridge.stop();
}
