//! systemd-machined(8), asked over varlink (io.systemd.Machine, systemd 257), else through [machinectl(1)](super::machinectl).

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, UnixAddr};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};

use super::answer::{Answer, Asked, Managed, one_cid, shown};
use super::machinectl::{self, UNKNOWN};
use crate::clock::Moment;
use crate::sys;
use crate::vsock::Cid;

const WHO: &str = "systemd-machined";
/// A file for each machine, in every version (src/machine/machine.c); what is in it is private.
pub(super) const FOLDER: &str = "/run/systemd/machines";
const METHOD: &str = "io.systemd.Machine.List";
/// More than any answer: a machine has less than 1 KiB.
const ANSWER_MAX: usize = 1 << 20;

/// What one place to ask came to.
#[derive(Debug, PartialEq, Eq)]
enum Reply<T> {
    /// What was asked for.
    Found(T),
    /// There is no machine of that name, or none at all.
    Unknown,
    /// Nobody there speaks of machines; ask elsewhere.
    Absent,
}

/// Asks which CID the machine has: the user's own machined, that of the system, and the tool where neither answers.
pub(super) fn cid(name: &str, deadline: Moment) -> Result<Cid, String> {
    let mut is_unknown = false;
    let question = json!({"method": METHOD, "parameters": {"name": name}});
    for path in paths() {
        match ask(&path, &question, deadline, cid_of)?.pop() {
            Some(Reply::Found(cid)) => return Ok(cid),
            Some(Reply::Unknown) => is_unknown = true,
            Some(Reply::Absent) | None => {}
        }
    }
    match is_unknown {
        true => Err(UNKNOWN.to_owned()),
        false => machinectl::cid(name, deadline),
    }
}

/// Asks which machines there are, in the same places. Those of libvirt are among them, but without a CID.
pub(super) fn machines(deadline: Moment) -> Answer {
    let mut all = Answer::default();
    let mut is_there = false;
    let question = json!({"method": METHOD, "parameters": {}, "more": true});
    for path in paths() {
        let replies = ask(&path, &question, deadline, managed).unwrap_or_else(|problem| {
            all.problems.push(problem);
            vec![Reply::Unknown]
        });
        for reply in replies {
            is_there |= reply != Reply::Absent;
            if let Reply::Found(machine) = reply {
                all.machines.push(machine);
            }
        }
    }
    if !is_there {
        match machinectl::machines(deadline) {
            Ok(Asked::Answered(machines)) => all.machines = machines,
            Ok(Asked::Absent(why)) => all.absent = Some(why),
            Err(problem) => all.problems.push(problem),
        }
    }
    all
}

/// Where the user's own machined is, and that of the system.
fn paths() -> [String; 2] {
    [
        format!("/run/user/{}/systemd/machine/io.systemd.Machine", geteuid()),
        "/run/systemd/machine/io.systemd.Machine".to_owned(),
    ]
}

/// Asks in one place, and reads the parameters of each reply.
fn ask<T>(
    path: &str,
    question: &Value,
    deadline: Moment,
    read: impl Fn(&Value) -> Option<Result<T, String>>,
) -> Result<Vec<Reply<T>>, String> {
    let stream = match connect(path) {
        Ok(stream) => stream,
        // Nobody there, nobody any more, or not for this user.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED | Errno::EACCES) => {
            return Ok(vec![Reply::Absent]);
        }
        Err(errno) => return Err(format!("{path} cannot be asked: {}", errno.desc())),
    };
    match exchange(stream, question, deadline) {
        Ok(replies) => replies.iter().map(|text| reply(text, &read)).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err("systemd-machined gave no answer in time".to_owned())
        }
        Err(error) => Err(format!("{path} cannot be asked: {error}")),
    }
}

/// Connects without waiting for room in a queue.
fn connect(path: &str) -> Result<UnixStream, Errno> {
    let socket = sys::stream_socket(AddressFamily::Unix)?;
    sys::connect(socket.as_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).map_err(errno)?;
    Ok(stream)
}

fn errno(error: std::io::Error) -> Errno {
    error.try_into().unwrap_or(Errno::EIO)
}

/// Sends the question and reads the replies without the NUL that ends each (<https://varlink.org/Service>).
fn exchange(
    mut stream: UnixStream,
    question: &Value,
    deadline: Moment,
) -> std::io::Result<Vec<Vec<u8>>> {
    let mut text = question.to_string().into_bytes();
    text.push(0);
    stream.write_all(&text)?;
    let (mut replies, mut rest) = (Vec::new(), Vec::new());
    let mut buffer = [0; 16 * 1024];
    let mut total = 0;
    while total <= ANSWER_MAX {
        let left = deadline - Moment::now();
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += count;
        for piece in buffer[..count].split_inclusive(|&byte| byte == 0) {
            let is_whole = piece.ends_with(&[0]);
            rest.extend_from_slice(&piece[..piece.len() - usize::from(is_whole)]);
            if is_whole {
                let is_last = !continues(&rest);
                replies.push(std::mem::take(&mut rest));
                if is_last {
                    return Ok(replies);
                }
            }
        }
    }
    // What has no end is no reply, and says so when it is read.
    replies.push(rest);
    Ok(replies)
}

fn continues(reply: &[u8]) -> bool {
    let reply = serde_json::from_slice::<Value>(reply);
    reply.is_ok_and(|reply| reply["continues"] == Value::Bool(true))
}

fn reply<T>(
    text: &[u8],
    read: impl Fn(&Value) -> Option<Result<T, String>>,
) -> Result<Reply<T>, String> {
    let said = || {
        format!(
            "systemd-machined said \"{}\"",
            shown(&String::from_utf8_lossy(text))
        )
    };
    let Ok(Value::Object(reply)) = serde_json::from_slice::<Value>(text) else {
        return Err(said());
    };
    match reply.get("error").map(Value::as_str) {
        None => {}
        Some(Some("io.systemd.Machine.NoSuchMachine")) => return Ok(Reply::Unknown),
        // systemd 256 has the interface without this method.
        Some(Some(
            "org.varlink.service.MethodNotFound"
            | "org.varlink.service.MethodNotImplemented"
            | "org.varlink.service.InterfaceNotFound",
        )) => return Ok(Reply::Absent),
        Some(_) => return Err(said()),
    }
    match reply.get("parameters").and_then(read) {
        Some(found) => found.map(Reply::Found),
        None => Err(said()),
    }
}

/// Reads the CID from what is said of a machine.
fn cid_of(parameters: &Value) -> Option<Result<Cid, String>> {
    match &parameters["vSockCid"] {
        Value::Null => Some(one_cid(WHO, [])),
        Value::Number(number) => Some(one_cid(WHO, [&*number.to_string()])),
        _ => None,
    }
}

/// Reads what is said of a machine, which vsock need not reach.
fn managed(parameters: &Value) -> Option<Result<Managed, String>> {
    let name = parameters["name"].as_str()?;
    let cid = cid_of(parameters)?;
    let leader = &parameters["leader"];
    let leader = leader["pid"].as_i64().and_then(|pid| pid.try_into().ok());
    let process = leader.map(Pid::from_raw);
    Some(Ok(Managed::running(name, cid.ok(), process)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Reply<Cid>, String> {
        reply(text, cid_of)
    }

    #[test]
    fn a_machine_may_have_a_cid_and_a_leader() {
        let list = |text: &str| reply(text.as_bytes(), managed);
        let found = |name, cid, process: Option<i32>| {
            let process = process.map(Pid::from_raw);
            Ok(Reply::Found(Managed::running(name, Cid::new(cid), process)))
        };
        for (text, machine) in [
            (
                r#"{"parameters":{"name":"web","vSockCid":7,"leader":{"pid":81,"pidfdId":4}},"continues":true}"#,
                found("web", 7, Some(81)),
            ),
            (
                r#"{"parameters":{"name":"web","vSockCid":7}}"#,
                found("web", 7, None),
            ),
            (
                r#"{"parameters":{"name":"box","class":"container","leader":{"pid":9}}}"#,
                found("box", 0, Some(9)),
            ),
            (
                r#"{"parameters":{"name":"x","vSockCid":0,"leader":{"pid":99999999999}}}"#,
                found("x", 0, None),
            ),
        ] {
            assert_eq!(list(text), machine, "{text}");
        }
        for broken in [
            r#"{"parameters":{"vSockCid":7}}"#,
            r#"{"parameters":{"name":7}}"#,
            "{",
        ] {
            assert!(list(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_answer_has_the_cid_or_says_that_there_is_no_such_machine() {
        let cid = read(br#"{"parameters":{"name":"web","class":"vm","vSockCid":7}}"#);
        assert_eq!(cid, Ok(Reply::Found(Cid::new(7).unwrap())));
        let unknown = read(br#"{"error":"io.systemd.Machine.NoSuchMachine","parameters":{}}"#);
        assert_eq!(unknown, Ok(Reply::Unknown));
        let old =
            read(br#"{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}"#);
        assert_eq!(old, Ok(Reply::Absent));
    }

    #[test]
    fn any_other_answer_is_a_problem() {
        for (answer, words) in [
            (
                &br#"{"parameters":{"name":"web","class":"container"}}"#[..],
                "no vsock",
            ),
            (br#"{"parameters":{"vSockCid":0}}"#, "no CID"),
            (br#"{"parameters":{"vSockCid":4294967296}}"#, "no CID"),
            (br#"{"parameters":{"vSockCid":-1}}"#, "no CID"),
            (br#"{"parameters":{"vSockCid":"7"}}"#, "said"),
            (br#"{"parameters":{"vSockCid":[7,8]}}"#, "said"),
            (br#"{"error":"io.systemd.System"}"#, "io.systemd.System"),
            (br#"{"error":7}"#, "said"),
            (b"{}", "said"),
            (b"[]", "said"),
            (b"", "said"),
            (b"{\"parameters\":", "said"),
            (b"\xff\xfe", "said"),
        ] {
            let problem = read(answer).unwrap_err();
            assert!(
                problem.contains(words),
                "{}: {problem}",
                answer.escape_ascii()
            );
        }
    }
}
