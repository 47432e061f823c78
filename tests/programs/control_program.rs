//! vsockctl: addresses, prefixes and lines for /etc/hosts; what is wrong is one line and exit 2.

use std::collections::HashSet;
use std::process::Stdio;

use crate::common::program::{Finished, Program, command, finish, ours, with_own_settings};
use crate::common::{own_folder, skipped};

const PREFIX: &str = "fd00:1:2:3::/64";

fn vsockctl(arguments: &[&str]) -> Finished {
    let mut vsockctl = command(ours("vsockctl"));
    with_own_settings(&mut vsockctl).args(arguments);
    finish(vsockctl)
}

/// With the prefix of the tests, and an argument that may begin with a dash.
fn with_prefix(words: &[&str], argument: &str) -> Finished {
    vsockctl(&[&["--prefix", PREFIX], words, &["--", argument]].concat())
}

fn expect_output(finished: Finished, text: &str) {
    assert_eq!(
        (finished.code, &*finished.stdout),
        (0, text),
        "{finished:#?}"
    );
    assert_eq!(finished.stderr, [""; 0]);
}

fn expect_usage_error(finished: &Finished) {
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    assert!(line.starts_with("vsockctl: "), "{line}");
    assert_eq!((finished.code, &*finished.stdout), (2, ""), "{finished:#?}");
}

#[test]
fn addr_gives_the_address_of_a_machine() {
    for (machine, address) in [
        ("1", "fd00:1:2:3::1"),
        ("local", "fd00:1:2:3::1"),
        ("2", "fd00:1:2:3::2"),
        ("host", "fd00:1:2:3::2"),
        ("host.vsock", "fd00:1:2:3::2"),
        ("3", "fd00:1:2:3::3"),
        ("3.vsock", "fd00:1:2:3::3"),
        ("1024", "fd00:1:2:3::400"),
        ("65536", "fd00:1:2:3::1:0"),
        ("4294967294", "fd00:1:2:3::ffff:fffe"),
    ] {
        let text = format!("{address}\n");
        expect_output(with_prefix(&["addr"], machine), &text);
    }
}

#[test]
fn addr_of_what_names_no_machine_exits_2() {
    for machine in [
        "",
        "0",
        "-1",
        "+3",
        " 3",
        "3 ",
        "03",
        "0x3",
        "3.0",
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "any",
        "nobody",
        ".vsock",
        "3.vsock.vsock",
        "3.example",
        "vsock:3",
        "vsock/",
        "vsock/0",
        "vsock/vsock/3",
        "host/3",
        "machine/",
        "libvirt/a/b",
        "3\n",
    ] {
        expect_usage_error(&with_prefix(&["addr"], machine));
    }
}

#[test]
fn cid_and_addr_are_inverse() {
    let spread = (0..40_u64).map(|n| 1 + n * n * n * n * 1671 % 4_294_967_294);
    for cid in spread.chain([1, 2, 3, 4_294_967_294]) {
        let cid = cid.to_string();
        let address = with_prefix(&["addr"], &cid).stdout;
        expect_output(
            with_prefix(&["cid"], address.trim_end()),
            &format!("{cid}\n"),
        );
    }
}

#[test]
fn cid_reads_every_way_to_write_an_address() {
    for address in [
        "[fd00:1:2:3::a]",
        "FD00:1:2:3::A",
        "fd00:0001:0002:0003:0:0:0:a",
        "fd00:1:2:3::0.0.0.10",
    ] {
        expect_output(with_prefix(&["cid"], address), "10\n");
    }
}

#[test]
fn cid_of_what_names_no_machine_exits_2() {
    for address in [
        "",
        "nobody",
        "127.0.0.1",
        "::1",
        "fd00:1:2:4::3",
        "fd00:1:2:3::",
        "fd00:1:2:3::ffff:ffff",
        "fd00:1:2:3:0:1:0:3",
        "fd00:1:2:3:8000::3",
        "[fd00:1:2:3::3",
        "fd00:1:2:3::3]",
        "fd00:1:2:3::3/64",
        "fd00:1:2:3::3%lo",
        "fd00:1:2:3::10000",
        " fd00:1:2:3::3",
        "fd00:1:2:3::3\n",
        "-1",
    ] {
        expect_usage_error(&with_prefix(&["cid"], address));
    }
}

#[test]
fn addr_and_cid_take_every_form_of_a_machine() {
    for machine in [
        "3",
        "3.vsock",
        "web",
        "Web.VSOCK",
        "fd00:1:2:3::3",
        "[fd00:1:2:3::3]",
        "vsock/3",
        "vsock%web",
        "vsock/3.vsock",
    ] {
        for (command, text) in [("addr", "fd00:1:2:3::3\n"), ("cid", "3\n")] {
            expect_output(with_prefix(&["--names", "web=3", command], machine), text);
        }
    }
    expect_output(with_prefix(&["cid"], "host"), "2\n");
    expect_output(with_prefix(&["cid"], "local.vsock"), "1\n");
}

#[test]
fn the_p_of_the_manuals_is_told_with_the_prefix_in_its_place() {
    for command in ["addr", "cid"] {
        let finished = with_prefix(&[command], "P::3");
        expect_usage_error(&finished);
        let said = "\"P::3\" is not a valid address: P stands for the prefix of the machine; here that is fd00:1:2:3::3";
        assert_eq!(finished.stderr[0], format!("vsockctl: {said}"));
    }
}

#[test]
fn the_prefix_comes_from_the_option_before_the_environment() {
    let mut vsockctl = command(ours("vsockctl"));
    vsockctl
        .args(["addr", "3"])
        .env("VSOCK_BRIDGE_PREFIX", PREFIX);
    expect_output(finish(vsockctl), "fd00:1:2:3::3\n");
    let mut vsockctl = command(ours("vsockctl"));
    vsockctl
        .args(["addr", "3", "--prefix", "fd00:9::/64"])
        .env("VSOCK_BRIDGE_PREFIX", PREFIX);
    expect_output(finish(vsockctl), "fd00:9::3\n");
}

#[test]
fn prefix_show_prints_the_prefix_and_says_where_it_is_from() {
    for text in [
        PREFIX,
        "fd00:1:2:3::",
        "FD00:1:2:3::/64",
        "fd00:1:2:3:0:0:0:0/64",
    ] {
        let finished = vsockctl(&["prefix", "show", "--prefix", text]);
        assert_eq!((finished.code, &*finished.stdout), (0, "fd00:1:2:3::/64\n"));
        assert!(
            finished.stderr[0].contains("given by option"),
            "{finished:?}"
        );
    }
}

#[test]
fn wrong_prefixes_exit_2_in_every_subcommand() {
    for prefix in [
        "",
        "x",
        "fd00:1:2:3::1",
        "fd00:1:2:3::/63",
        "fd00:1:2:3::/65",
        "fd00:1:2:3::/064",
        "fd00:1:2:3::/64/64",
        "fd00:1:2:3::/",
        "fc00:1:2:3::/64",
        "fe80::/64",
        "2001:db8::/64",
        "::/64",
        "ff02::/64",
        "10.0.0.0/8",
        "fd00:1:2:3::/64 ",
        "fd00:1:2:3::%lo/64",
        "fd00:1:2:3::/64\n",
    ] {
        for words in [
            &["addr", "3"][..],
            &["cid", "fd00::3"],
            &["prefix", "show"],
            &["hosts"],
            &["rules"],
            &["rules", "--load"],
            &["check"],
        ] {
            let option = format!("--prefix={prefix}");
            let finished = vsockctl(&[&[&*option], words].concat());
            expect_usage_error(&finished);
        }
    }
}

#[test]
fn prefix_generate_gives_another_unique_local_64_each_time() {
    let prefixes: HashSet<String> = (0..20)
        .map(|_| vsockctl(&["prefix", "generate"]).stdout)
        .collect();
    assert_eq!(prefixes.len(), 20);
    for prefix in prefixes {
        let prefix = prefix.strip_suffix('\n').unwrap();
        assert!(
            prefix.starts_with("fd") && prefix.ends_with("::/64"),
            "{prefix}"
        );
        let shown = vsockctl(&["prefix", "show", "--prefix", prefix]).stdout;
        assert_eq!(shown, format!("{prefix}\n"));
    }
}

#[test]
fn hosts_gives_a_block_with_all_names() {
    let text = "# BEGIN vsock-bridge\n# Written by `vsockctl hosts`; changes are lost.\n\
        fd00:1:2:3::2\thost.vsock 2.vsock\nfd00:1:2:3::3\tweb.vsock www.vsock 3.vsock\n# END vsock-bridge\n";
    let arguments = ["--prefix", PREFIX, "--names", "web=3 WWW=3", "hosts"];
    expect_output(vsockctl(&arguments), text);
}

#[test]
fn rules_are_of_the_prefix_and_not_loaded() {
    let finished = vsockctl(&["--prefix", PREFIX, "rules"]);
    assert_eq!((finished.code, &*finished.stderr), (0, &[][..]));
    let text = finished.stdout;
    assert!(text.contains("iif \"lo\" ip6 daddr fd00:1:2:3::/64 "));
    assert!(text.ends_with("\n}\n"), "{text}");
}

#[test]
fn nft_is_missing_or_fails_rules_say_so_and_exit_1() {
    let place = own_folder();
    for (is_there, said) in [(false, "package nftables"), (true, "no reason given")] {
        if is_there {
            std::os::unix::fs::symlink("/bin/false", place.path().join("nft")).unwrap();
        }
        for option in ["--load", "--unload"] {
            let mut vsockctl = command(ours("vsockctl"));
            vsockctl
                .args(["-q", "rules", option, "--prefix", PREFIX])
                .env("PATH", place.path());
            let finished = finish(vsockctl);
            assert_eq!((finished.code, &*finished.stdout), (1, ""));
            let [line] = &finished.stderr[..] else {
                panic!("not one line: {finished:#?}")
            };
            assert!(line.contains(said), "{line}");
        }
    }
}

#[test]
fn wrong_command_lines_exit_2() {
    for arguments in [
        &["nonsense"][..],
        &["addr"],
        &["addr", "3", "4"],
        &["cid"],
        &["prefix", "nonsense"],
        &["prefix", "show", "x"],
        &["hosts", "x"],
        &["rules", "x"],
        &["rules", "--load", "--unload"],
        &["check", "x"],
        &["addr", "3", "--nonsense"],
        &["addr", "3", "--prefix"],
    ] {
        expect_usage_error(&vsockctl(arguments));
    }
}

#[test]
fn prefix_without_a_command_shows_it() {
    let [shown, said] = [&["prefix"][..], &["prefix", "show"]]
        .map(|words| vsockctl(&[&["--prefix", PREFIX], words].concat()));
    assert_eq!((shown.code, &*shown.stdout), (0, "fd00:1:2:3::/64\n"));
    assert_eq!(shown.stderr, said.stderr);
}

#[test]
fn help_and_version_exit_0() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["addr", "--help"],
        &["prefix", "--help"],
        &["check", "--help"],
    ] {
        let finished = vsockctl(arguments);
        assert_eq!(finished.code, 0, "{finished:?}");
        assert!(!finished.stdout.is_empty() && finished.stderr.is_empty());
    }
}

#[test]
fn what_is_printed_cannot_be_written_one_line_says_so_and_exits_1() {
    for arguments in [
        &["addr", "3", "--prefix", PREFIX][..],
        &["metrics"],
        &["--help"],
        &["--version"],
    ] {
        let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
            return skipped("no /dev/full here");
        };
        let mut vsockctl = command(ours("vsockctl"));
        vsockctl.args(arguments).stdout(Stdio::from(full));
        let mut vsockctl = Program::start(vsockctl);
        assert_eq!(vsockctl.exit_code(), 1);
        let expected =
            "vsockctl: cannot write to standard output: No space left on device (os error 28)";
        assert!(
            vsockctl.log.contains(&expected.to_owned()),
            "{:#?}",
            vsockctl.log
        );
    }
}

#[test]
fn nobody_reads_what_is_printed_exits_0_in_silence() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let mut vsockctl = command(ours("vsockctl"));
    vsockctl.args(["addr", "3", "--prefix", PREFIX]);
    vsockctl.stdout(Stdio::from(writer));
    let mut vsockctl = Program::start(vsockctl);
    assert_eq!(vsockctl.exit_code(), 0);
    assert_eq!(vsockctl.log, [""; 0]);
}

/// The file would be where the one who types happens to be.
#[test]
fn prefix_watch_has_no_folder_one_line_says_whose_it_is_and_exits_2() {
    let folder = own_folder();
    let mut vsockctl = command(ours("vsockctl"));
    vsockctl
        .args(["--prefix", PREFIX, "prefix", "watch"])
        .current_dir(folder.path());
    let finished = finish(vsockctl);
    expect_usage_error(&finished);
    let line = &finished.stderr[0];
    assert!(
        line.contains(
            "RUNTIME_DIRECTORY, which is not set: start vsock-bridge-prefix-watch.service"
        ),
        "{line}"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
