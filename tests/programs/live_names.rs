//! Bridges whose names of machines come, change and go while they run: who is reached then, and what stays.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::Socket;
use vsock_bridge::testing::Snapshot;

use crate::common::bridge::Bridge;
use crate::common::content::{End, read_to_end};
use crate::common::own_registry::Registry;
use crate::common::place::{Kind, Place, ping};
use crate::common::program::{Program, command};
use crate::common::vmm::{asked, taken};
use crate::common::{DEADLINE, own_folder, skipped};

/// As long as a name may hold that does not any more.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The bridge has logged the change within that time.
fn expect_at_once(bridge: &mut Program, since: Instant, line: &str) {
    bridge.wait_for_line(line);
    let time = since.elapsed();
    assert!(time < AT_ONCE, "{line}: after {time:?}");
}

fn expect_refusal(bridge: &mut Program, listener: &Place) {
    let mut client = listener.connect();
    assert_ne!(read_to_end(&mut client).0, b"wrong");
    bridge.wait_for_line("closed: no machine is named \"web\"");
}

#[test]
fn a_target_is_absent_comes_moves_and_goes_and_what_is_open_stays() {
    let registry = Registry::new();
    let (listener, first, second) = three();
    let bridge = Bridge::to("vsock:web:22").listener(&listener);
    let Some(bridge) = registry.given_to(bridge) else {
        return;
    };
    let mut bridge = bridge.start();
    bridge.wait_for_line("no machine is named \"web\"");
    bridge.wait_for_line("to vsock:web:22");
    expect_refusal(&mut bridge, &listener);

    let since = Instant::now();
    registry.write("a.conf", &format!("web={}\nnonsense\n", first.text));
    expect_at_once(&mut bridge, since, "names.d/a.conf:2: \"nonsense\"");
    bridge.wait_for_line(&format!("web is {} from now on", first.text));
    let mut client = listener.connect();
    let mut machine = taken(&first, 22);
    ping(&mut client, &mut machine);

    let since = Instant::now();
    registry.write("a.conf", &format!("web={}\n", second.text));
    let line = format!("web is {} from now on", second.text);
    expect_at_once(&mut bridge, since, &line);
    let mut other_client = listener.connect();
    let mut other_machine = taken(&second, 22);
    ping(&mut other_client, &mut other_machine);
    ping(&mut client, &mut machine);

    let since = Instant::now();
    registry.remove("a.conf");
    expect_at_once(&mut bridge, since, "web is no machine any more");
    expect_refusal(&mut bridge, &listener);
    ping(&mut client, &mut machine);
    ping(&mut other_client, &mut other_machine);
    assert!(first.has_nobody_waiting() && second.has_nobody_waiting());
    drop((client, machine, other_client, other_machine));
    bridge.stop();
}

fn three() -> (Place, Place, Place) {
    let place = || Place::listening(Kind::Unix);
    (place(), place(), place())
}

/// A bridge to web, which is the first of two machines: the registry, the bridge, where it listens, and the machines. None
/// where nothing can be mounted.
fn moving() -> Option<(Registry, Program, Place, [Place; 2])> {
    let registry = Registry::new();
    let (listener, first, second) = three();
    registry.write("a.conf", &format!("web={}\n", first.text));
    let bridge = Bridge::to("vsock:web:22").listener(&listener);
    let bridge = registry.given_to(bridge)?.start();
    Some((registry, bridge, listener, [first, second]))
}

#[test]
fn a_client_waits_for_a_machine_that_has_no_name_yet() {
    let registry = Registry::new();
    let (listener, vmm, _) = three();
    let bridge = Bridge::to("vsock:web:22").listener(&listener);
    let bridge = bridge.variable("VSOCK_BRIDGE_CONNECT_RETRY", "1h");
    let Some(bridge) = registry.given_to(bridge) else {
        return;
    };
    let mut bridge = bridge.start();
    bridge.wait_for_line("to vsock:web:22");
    let mut client = listener.connect();
    registry.write("a.conf", &format!("web={}\n", vmm.text));
    let mut machine = taken(&vmm, 22);
    ping(&mut client, &mut machine);
    drop((client, machine));
    bridge.stop();
}

/// Nobody comes to the machine that had the name, however soon after it was given away.
#[test]
fn a_client_comes_right_after_a_name_has_moved_it_is_never_the_former_machine() {
    let Some((registry, _bridge, listener, [first, second])) = moving() else {
        return;
    };
    for _ in 0..20 {
        for (now, former) in [(&second, &first), (&first, &second)] {
            registry.write("a.conf", &format!("web={}\n", now.text));
            let mut client = listener.connect();
            let mut machine = taken(now, 22);
            ping(&mut client, &mut machine);
            assert!(former.has_nobody_waiting());
        }
    }
}

/// However its file, or the folder of all files, becomes another.
#[test]
fn a_name_moves_without_a_word_of_its_folder_the_next_client_comes_to_its_machine() {
    type Move<'a> = &'a dyn Fn(&Registry, &str);
    let own = |registry: &Registry| registry.path("").parent().unwrap().to_owned();
    let kept_open = |registry: &Registry, text: &str| {
        let file = File::options()
            .write(true)
            .open(registry.path("a.conf"))
            .unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
        // Its writer goes on.
        std::mem::forget(file);
    };
    let link = |registry: &Registry, text: &str| {
        let target = own(registry).join("elsewhere");
        if !target.exists() {
            registry.remove("a.conf");
            symlink("../elsewhere", registry.path("a.conf")).unwrap();
        }
        fs::write(target, text).unwrap();
    };
    // As a container's volumes are renewed.
    let link_of_link = |registry: &Registry, text: &str| {
        let (data, new) = (registry.path("..data"), registry.path("..new"));
        let next = tempfile::Builder::new()
            .prefix("..")
            .tempdir_in(registry.path(""));
        let next = next.unwrap().keep();
        fs::write(next.join("a.conf"), text).unwrap();
        symlink(next.file_name().unwrap(), &new).unwrap();
        fs::rename(new, &data).unwrap();
        if !registry.path("a.conf").is_symlink() {
            registry.remove("a.conf");
            symlink("..data/a.conf", registry.path("a.conf")).unwrap();
        }
    };
    let folder = |registry: &Registry, text: &str| {
        let next = own(registry).join("next");
        fs::create_dir(&next).unwrap();
        fs::write(next.join("a.conf"), text).unwrap();
        let before = tempfile::tempdir_in(own(registry)).unwrap().keep();
        fs::rename(registry.path(""), before).unwrap();
        fs::rename(next, registry.path("")).unwrap();
    };
    let link_to_folder = |registry: &Registry, text: &str| {
        let next = tempfile::tempdir_in(own(registry)).unwrap().keep();
        fs::write(next.join("a.conf"), text).unwrap();
        let (names, new) = (own(registry).join("names.d"), own(registry).join("new"));
        symlink(next.file_name().unwrap(), &new).unwrap();
        if !names.is_symlink() {
            fs::remove_dir_all(&names).unwrap();
        }
        fs::rename(new, names).unwrap();
    };
    let moves: [(&str, Move<'_>); 5] = [
        ("kept open", &kept_open),
        ("link", &link),
        ("link of a link", &link_of_link),
        ("folder", &folder),
        ("link to a folder", &link_to_folder),
    ];
    for (what, give) in moves {
        let Some((registry, bridge, listener, [first, second])) = moving() else {
            return;
        };
        for _ in 0..5 {
            for (now, former) in [(&second, &first), (&first, &second)] {
                give(&registry, &format!("web={}\n", now.text));
                let mut client = listener.connect();
                let mut machine = taken(now, 22);
                ping(&mut client, &mut machine);
                assert!(former.has_nobody_waiting(), "{what}");
            }
        }
        bridge.stop();
    }
}

/// Never the wrong one: what has not answered yet hears nothing of a client any more when its name is another's.
#[test]
fn a_name_moves_while_its_machine_is_asked_the_client_comes_to_the_new_one() {
    let Some((registry, bridge, listener, [first, second])) = moving() else {
        return;
    };
    let mut client = listener.connect();
    client.write_all(b"a secret").unwrap();
    let mut former = asked(&first, 22);
    registry.write("a.conf", &format!("web={}\n", second.text));
    let mut machine = taken(&second, 22);
    let mut secret = [0; 8];
    machine.read_exact(&mut secret).unwrap();
    assert_eq!(&secret, b"a secret");
    let (bytes, end) = read_to_end(&mut former);
    assert_eq!((bytes.len(), end), (0, End::Clean));
    ping(&mut client, &mut machine);
    drop((client, machine));
    bridge.stop();
}

/// However late: what is known when the answer is read is what was written before it was given.
#[test]
fn a_name_moves_and_the_former_machine_answers_it_hears_nothing() {
    let Some((registry, bridge, listener, [first, second])) = moving() else {
        return;
    };
    for _ in 0..20 {
        for (now, former) in [(&second, &first), (&first, &second)] {
            let mut client = listener.connect();
            client.write_all(b"a secret").unwrap();
            let mut asked = asked(former, 22);
            registry.write("a.conf", &format!("web={}\n", now.text));
            expect_nothing_said(&mut asked, now, 22, b"a secret");
        }
    }
    bridge.stop();
}

/// The former machine answers, and hears nothing; the other one does.
fn expect_nothing_said(former: &mut Socket, now: &Place, port: u32, secret: &[u8]) {
    // It may be left by now.
    let _ = former.write_all(b"OK 1\n");
    let mut machine = taken(now, port);
    let mut heard = vec![0; secret.len()];
    machine.read_exact(&mut heard).unwrap();
    assert_eq!(heard, secret);
    let (bytes, _) = read_to_end(former);
    assert_eq!(bytes.len(), 0);
}

/// A gateway at a rule for that machine.
fn gateway(registry: &Registry, listener: &Place, rules: &Path) -> Option<Program> {
    let bridge = Bridge::to("gateway").listener(listener);
    let rules = ["--machine", "3", "--rules", rules.to_str().unwrap()];
    let bridge = registry.given_to(bridge.arguments(&rules))?;
    let mut bridge = bridge.start();
    bridge.wait_for_line("bridging");
    Some(bridge)
}

#[test]
fn a_name_moves_while_a_gateway_connects_the_peer_comes_to_the_new_machine_or_to_none() {
    let (registry, folder) = (Registry::new(), own_folder());
    let (listener, first, second) = three();
    let rules = folder.path().join("rules");
    fs::write(&rules, "3 web:22\n").unwrap();
    registry.write("a.conf", &format!("web={}\n", first.text));
    let Some(mut bridge) = gateway(&registry, &listener, &rules) else {
        return;
    };
    let ask = || {
        let mut client = listener.connect();
        client
            .write_all(b"CONNECT web.vsock:22 HTTP/1.1\r\n\r\na secret")
            .unwrap();
        client
    };
    let expect = |client: &mut Socket, status: &[u8]| {
        let mut answer = vec![0; status.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&answer),
            String::from_utf8_lossy(status)
        );
    };
    for _ in 0..10 {
        for (now, former) in [(&second, &first), (&first, &second)] {
            let mut client = ask();
            let mut asked = asked(former, 22);
            registry.write("a.conf", &format!("web={}\n", now.text));
            expect_nothing_said(&mut asked, now, 22, b"a secret");
            expect(&mut client, b"HTTP/1.1 200 ");
        }
    }
    let mut client = ask();
    let mut asked = asked(&first, 22);
    registry.write("a.conf", &format!("web={}\n", second.text));
    fs::write(&rules, "3 db:22\n").unwrap();
    let _ = asked.write_all(b"OK 1\n");
    expect(&mut client, b"HTTP/1.1 403 ");
    assert_eq!(read_to_end(&mut asked).0.len(), 0);
    bridge.wait_for_line("no rule of");
    assert!(first.has_nobody_waiting() && second.has_nobody_waiting());
    bridge.stop();
}

#[test]
fn list_shows_where_each_connection_goes_and_the_next_will_go() {
    let registry = Registry::new();
    let (listener, first, second) = three();
    registry.write("a.conf", &format!("web={}\n", first.text));
    let folder = own_folder();
    let bridge = Bridge::to("vsock:web:22").listener(&listener);
    let bridge = bridge.variable("RUNTIME_DIRECTORY", folder.path());
    let Some(bridge) = registry.given_to(bridge) else {
        return;
    };
    let mut bridge = bridge.start();
    let mut client = listener.connect();
    let mut machine = taken(&first, 22);
    ping(&mut client, &mut machine);
    registry.write("a.conf", &format!("web={}\n", second.text));
    bridge.wait_for_line(&format!("web is {} from now on", second.text));
    let control = folder.path().join("control");
    let mut control = std::os::unix::net::UnixStream::connect(control).unwrap();
    control.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = String::new();
    control.read_to_string(&mut text).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(snapshot.target, format!("vsock-mux:{}:22", second.text));
    let [connection] = &snapshot.connections[..] else {
        panic!("{snapshot:?}")
    };
    assert!(connection.target.contains(&first.text), "{connection:?}");
    drop((client, machine));
    bridge.stop();
}

#[test]
fn names_of_the_administrator_hold_and_are_not_watched() {
    let registry = Registry::new();
    let (listener, vmm, _) = three();
    registry.write("a.conf", &format!("web={}\n", vmm.text));
    for (variable, value, line) in [
        ("VSOCK_BRIDGE_NAMES", "web=3", "to vsock:3:22"),
        ("VSOCK_BRIDGE_ALLOW_CID", "7", "to vsock-mux:"),
    ] {
        let bridge = Bridge::to("vsock:web:22").listener(&listener);
        let Some(bridge) = registry.given_to(bridge.variable(variable, value)) else {
            return;
        };
        let mut bridge = bridge.start();
        bridge.wait_for_line(line);
        let descriptors = fs::read_dir(format!("/proc/{}/fd", bridge.pid())).unwrap();
        let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let watches = links.filter(|link| link.to_str() == Some("anon_inode:inotify"));
        assert_eq!(
            watches.count(),
            usize::from(line == "to vsock-mux:"),
            "{line}"
        );
        bridge.stop();
    }
}

/// Rules that are kept because their file has an error are those of names, not of machines.
#[test]
fn a_machine_that_lost_its_name_lost_its_rules_also_while_their_file_has_an_error() {
    let registry = Registry::new();
    registry.write("a.conf", "web=3\n");
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Tcp4));
    let folder = own_folder();
    let rules = folder.path().join("rules");
    let rule = format!("web {}\n", target.text);
    fs::write(&rules, &rule).unwrap();
    let bridge = Bridge::to("gateway").listener(&listener).arguments(&[
        "--machine",
        "3",
        "--rules",
        rules.to_str().unwrap(),
    ]);
    let Some(bridge) = registry.given_to(bridge) else {
        return;
    };
    let mut bridge = bridge.start();
    let answer = |status: &str| {
        let mut peer = listener.connect();
        let request = format!("CONNECT {} HTTP/1.1\r\n\r\n", target.text);
        peer.write_all(request.as_bytes()).unwrap();
        let mut found = vec![0; status.len()];
        peer.read_exact(&mut found).unwrap();
        assert_eq!(String::from_utf8_lossy(&found), status);
    };
    answer("HTTP/1.1 200 ");
    fs::write(&rules, format!("{rule}web nowhere\n")).unwrap();
    answer("HTTP/1.1 200 ");
    bridge.wait_for_line("the rules that held before still hold, 1 rule");
    registry.write("a.conf", "web=5\nother=3\n");
    answer("HTTP/1.1 403 ");
    registry.write("a.conf", "web=3\n");
    answer("HTTP/1.1 200 ");
    // The file was read, and complained of, once: only names have changed since.
    let told = bridge.stop();
    let complaints = |line: &&String| line.contains("the rules that held before still hold");
    assert_eq!(told.iter().filter(complaints).count(), 1, "{told:?}");
}

/// The kernel ends whoever waits where nothing may: all connections would stand still meanwhile.
#[test]
fn a_gateway_waits_for_no_file_of_names_that_is_half_written() {
    if command("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    let (registry, folder) = (Registry::new(), own_folder());
    let (listener, machine) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let rules = folder.path().join("rules");
    fs::write(&rules, "3 db:22\n").unwrap();
    registry.write("db.conf", &format!("db={}\n", machine.text));
    let bridge = Bridge::to("gateway").listener(&listener);
    let bridge = bridge.arguments(&["--machine", "3", "--rules", rules.to_str().unwrap()]);
    let kill = "inject=clock_nanosleep,nanosleep:signal=KILL";
    let trace = "strace -D -f -qq -o /dev/null -e trace=clock_nanosleep,nanosleep -e";
    let Some(bridge) = registry.given_to(bridge.wrapped(format!("{trace} {kill}"))) else {
        return;
    };
    let mut bridge = bridge.start();
    bridge.wait_for_line("bridging");
    for _ in 0..3 {
        fs::write(registry.path("half.conf"), "half=1").unwrap();
        let mut client = listener.connect();
        client
            .write_all(b"CONNECT db.vsock:22 HTTP/1.1\r\nHost: db.vsock:22\r\n\r\n")
            .unwrap();
        let mut machine = taken(&machine, 22);
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        machine.write_all(b"x").unwrap();
    }
    bridge.stop();
}
