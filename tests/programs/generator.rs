//! vsock-bridge-generator: each folder of tests/generator is the root of a machine with the tree that is expected of
//! it, in `expected`. What cannot be kept in a folder is made here. Whatever it finds, the boot goes on: exit 0.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::program::{command, finish, ours};
use crate::common::{own_folder, skipped};
use nix::sys::stat::Mode;
use tempfile::TempDir;

const DROP_IN: &str = "vsock-bridge-ipv6@.socket.d/50-prefix.conf";
const CONFIG: &str = "etc/vsock-bridge/vsock-bridge.conf";
const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef\n";

fn generator(root: &Path, output: &Path) -> Command {
    let mut generator = command(ours("vsock-bridge-generator"));
    generator
        .args([output, &output.join("early"), &output.join("late")])
        .env("VSOCK_BRIDGE_GENERATOR_ROOT", root);
    generator
}

/// All files below a directory with their text; the root is left out wherever it is named.
fn tree(directory: &Path, root: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let text = text.replace(root.to_str().unwrap(), "");
            files.insert(path.strip_prefix(directory).unwrap().to_owned(), text);
        }
    }
    files
}

#[test]
fn each_folder_gives_the_expected_tree() {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator");
    let mut cases: Vec<_> = fs::read_dir(folders)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() > 10);
    for case in cases {
        let output = own_folder();
        let mut generator = generator(&case, output.path());
        let credentials = case.join("credentials");
        if credentials.exists() {
            generator.env("CREDENTIALS_DIRECTORY", credentials);
        }
        let finished = finish(generator);
        assert_eq!(finished.code, 0, "{}: {finished:#?}", case.display());
        let expected = tree(&case.join("expected"), &case);
        assert_eq!(tree(output.path(), &case), expected, "{}", case.display());
    }
}

/// A root with a configuration file, and a machine id that must not be used in its place.
fn root_with(config: &[u8]) -> TempDir {
    let root = own_folder();
    fs::create_dir_all(root.path().join("etc/vsock-bridge")).unwrap();
    fs::write(root.path().join("etc/machine-id"), MACHINE_ID).unwrap();
    fs::write(root.path().join(CONFIG), config).unwrap();
    root
}

/// Runs it and gives the lines of the drop-in that say where to listen.
fn listen_streams(root: &Path) -> Vec<String> {
    let output = own_folder();
    let finished = finish(generator(root, output.path()));
    assert_eq!(finished.code, 0, "{finished:#?}");
    let text = fs::read_to_string(output.path().join(DROP_IN)).unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("ListenStream="));
    lines.map(str::to_owned).collect()
}

fn expect_prefix(root: &TempDir, prefix: &str) {
    let lines = listen_streams(root.path());
    assert_eq!(
        lines,
        ["ListenStream=", &format!("ListenStream=[{prefix}2]:%i")]
    );
}

fn expect_nothing(root: &TempDir) {
    assert_eq!(listen_streams(root.path()), [""; 0]);
}

#[test]
fn the_file_is_written_as_other_systems_write_it() {
    for config in [
        &b"\xef\xbb\xbfVSOCK_BRIDGE_PREFIX=fd00:1::/64\n"[..],
        b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\r\n",
        b"# a comment\r\n\r\nVSOCK_BRIDGE_PREFIX=\"fd00:1::/64\"\r\n",
        b"VSOCK_BRIDGE_PREFIX=fd00:1::/64",
        b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\n\0\n",
        // A line with a NUL byte is skipped, as any that is none.
        b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\nVSOCK_BRIDGE_PREFIX=fd00:2::\0/64\n",
        b"\xff\xfe\nVSOCK_BRIDGE_PREFIX=fd00:1::/64\n",
    ] {
        expect_prefix(&root_with(config), "fd00:1::");
    }
}

#[test]
fn the_prefix_in_the_file_is_none_nothing_is_written() {
    for value in [
        &b""[..],
        b"x",
        b"fd00:1::1/64",
        b"fd00:1::/48",
        b"2001:db8::/64",
        b"fd00:1::/64 fd00:2::/64",
        b"fd00:1::/64\\",
        b"fd00:1::%lo/64",
        b"\xff",
        b"\"fd00:1::/64",
        b"$PREFIX",
        b"%i",
        b"fd00:1::/64\rListenStream=1",
        b"\xe2\x80\xaefd00:1::/64",
    ] {
        let config = [b"VSOCK_BRIDGE_PREFIX=", value, b"\n"].concat();
        expect_nothing(&root_with(&config));
    }
}

#[test]
fn the_file_is_too_long_nothing_is_written() {
    let mut config = b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\n".to_vec();
    config.resize(10 << 20, b'#');
    expect_nothing(&root_with(&config));
    // And a line that is, before one that is not.
    let long = [&[b'x'; 200_000][..], b"\nVSOCK_BRIDGE_PREFIX=fd00:1::/64\n"].concat();
    expect_prefix(&root_with(&long), "fd00:1::");
}

#[test]
fn the_file_is_a_link_to_one_it_is_read() {
    let root = root_with(b"");
    fs::remove_file(root.path().join(CONFIG)).unwrap();
    fs::write(
        root.path().join("other"),
        "VSOCK_BRIDGE_PREFIX=fd00:1::/64\n",
    )
    .unwrap();
    symlink("../../other", root.path().join(CONFIG)).unwrap();
    expect_prefix(&root, "fd00:1::");
}

/// Nothing there may be waited for.
#[test]
fn the_file_is_a_directory_a_fifo_a_device_or_a_link_to_itself_nothing_is_written() {
    let config = |root: &TempDir| root.path().join(CONFIG);
    let makers: [fn(&Path); 5] = [
        |path| fs::create_dir(path).unwrap(),
        |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
        |path| symlink("/dev/zero", path).unwrap(),
        |path| symlink("vsock-bridge.conf", path).unwrap(),
        |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
    ];
    for make in makers {
        let root = root_with(b"");
        fs::remove_file(config(&root)).unwrap();
        make(&config(&root));
        expect_nothing(&root);
    }
}

#[test]
fn the_credential_is_a_fifo_or_a_directory_nothing_is_written() {
    let makers: [fn(&Path); 2] = [
        |path| fs::create_dir(path).unwrap(),
        |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
    ];
    for make in makers {
        let root = root_with(b"");
        let directory = root.path().join("run/credentials/@system");
        fs::create_dir_all(&directory).unwrap();
        make(&directory.join("vsock-bridge.prefix"));
        expect_nothing(&root);
    }
}

#[test]
fn the_file_may_not_be_read_nothing_is_written() {
    let root = root_with(b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\n");
    fs::set_permissions(root.path().join(CONFIG), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(root.path().join(CONFIG)).is_ok() {
        return skipped("root may read everything");
    }
    expect_nothing(&root);
}

#[test]
fn the_directory_for_units_cannot_be_written_exit_0() {
    let root = root_with(b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\n");
    for output in ["/proc/nonexistent", "/dev/null", "/dev/null/x"] {
        let finished = finish(generator(root.path(), Path::new(output)));
        assert_eq!(finished.code, 0, "{finished:#?}");
    }
}

#[test]
fn the_environment_of_the_service_manager_changes_nothing() {
    let root = root_with(b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\n");
    let output = own_folder();
    let mut generator = generator(root.path(), output.path());
    generator
        .env("VSOCK_BRIDGE_PREFIX", "fd00:2::/64")
        .env("VSOCK_BRIDGE_TO", "nonsense");
    generator
        .env("CREDENTIALS_DIRECTORY", "/nonexistent")
        .env("JOURNAL_STREAM", "1:1");
    assert_eq!(finish(generator).code, 0);
    let text = fs::read_to_string(output.path().join(DROP_IN)).unwrap();
    assert!(text.contains("[fd00:1::2]"), "{text}");
}

#[test]
fn only_the_first_directory_is_written_to() {
    let root = root_with(b"VSOCK_BRIDGE_PREFIX=fd00:1::/64\n");
    let output = own_folder();
    finish(generator(root.path(), output.path()));
    let files: Vec<_> = tree(output.path(), root.path()).into_keys().collect();
    assert_eq!(files, [Path::new(DROP_IN)]);
}

/// Without the kernel's log, or at a terminal, it says on stderr which line is wrong.
#[test]
fn a_wrong_line_is_named_with_file_and_number() {
    let root = root_with(b"# first\nnonsense\nVSOCK_BRIDGE_PREFIX=fd00:1::/64\n");
    let output = own_folder();
    let mut script = command("script");
    let line = format!(
        "{} --root {} {}",
        ours("vsock-bridge-generator"),
        root.path().display(),
        output.path().display()
    );
    script.args(["-q", "-e", "-c", &line, "/dev/null"]);
    if script.output().is_err() {
        return skipped("script(1) is missing");
    }
    let finished = finish(script);
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert!(
        finished.stdout.contains("vsock-bridge.conf:2: "),
        "{finished:#?}"
    );
    assert_eq!(finished.stdout.lines().count(), 1, "{finished:#?}");
    assert!(output.path().join(DROP_IN).exists());
}
