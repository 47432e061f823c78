//! systemd-machined(8), asked over varlink (io.systemd.Machine, systemd 257), else through machinectl(1).

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, UnixAddr};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::answer::{one_cid, shown};
use super::tool;
use crate::clock::Moment;
use crate::sys;
use crate::vsock::Cid;

const TOOL: &str = "machinectl";
const PROPERTY: &str = "VSockCID";
/// How machined writes that a machine has no CID: VMADDR_CID_ANY.
const NO_CID: &str = "4294967295";
/// More than any answer about one machine.
const ANSWER_MAX: usize = 1 << 20;
const UNKNOWN: &str = "systemd-machined knows no such machine";

/// What one place to ask came to.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The CID.
    Cid(Cid),
    /// There is no machine of that name.
    Unknown,
    /// Nobody there speaks of machines; ask elsewhere.
    Absent,
}

/// Asks which CID the machine has: the user's own machined, that of the system, and the tool where neither answers.
pub(super) fn cid(name: &str, deadline: Moment) -> Result<Cid, String> {
    let mut is_unknown = false;
    for path in [
        format!("/run/user/{}/systemd/machine/io.systemd.Machine", geteuid()),
        "/run/systemd/machine/io.systemd.Machine".to_owned(),
    ] {
        match ask(&path, name, deadline)? {
            Answer::Cid(cid) => return Ok(cid),
            Answer::Unknown => is_unknown = true,
            Answer::Absent => {}
        }
    }
    match is_unknown {
        true => Err(UNKNOWN.to_owned()),
        false => ask_tool(name, deadline),
    }
}

fn ask(path: &str, name: &str, deadline: Moment) -> Result<Answer, String> {
    let stream = match connect(path) {
        Ok(stream) => stream,
        // Nobody there, nobody any more, or not for this user.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED | Errno::EACCES) => {
            return Ok(Answer::Absent);
        }
        Err(errno) => return Err(format!("{path} cannot be asked: {}", errno.desc())),
    };
    match exchange(stream, name, deadline) {
        Ok(answer) => read(&answer),
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

/// Sends the question and reads the answer without the NUL that ends each (<https://varlink.org/Service>).
fn exchange(mut stream: UnixStream, name: &str, deadline: Moment) -> std::io::Result<Vec<u8>> {
    let question = json!({"method": "io.systemd.Machine.List", "parameters": {"name": name}});
    let mut answer = question.to_string().into_bytes();
    answer.push(0);
    stream.write_all(&answer)?;
    answer.clear();
    let mut buffer = [0; 16 * 1024];
    while answer.len() <= ANSWER_MAX {
        let left = deadline - Moment::now();
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Some(end) = buffer[..count].iter().position(|&byte| byte == 0) {
            answer.extend_from_slice(&buffer[..end]);
            return Ok(answer);
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    Ok(answer)
}

fn read(answer: &[u8]) -> Result<Answer, String> {
    let said = || {
        format!(
            "systemd-machined said \"{}\"",
            shown(&String::from_utf8_lossy(answer))
        )
    };
    let Ok(Value::Object(reply)) = serde_json::from_slice::<Value>(answer) else {
        return Err(said());
    };
    match reply.get("error").map(Value::as_str) {
        None => {}
        Some(Some("io.systemd.Machine.NoSuchMachine")) => return Ok(Answer::Unknown),
        // systemd 256 has the interface without this method.
        Some(Some(
            "org.varlink.service.MethodNotFound"
            | "org.varlink.service.MethodNotImplemented"
            | "org.varlink.service.InterfaceNotFound",
        )) => return Ok(Answer::Absent),
        Some(_) => return Err(said()),
    }
    match reply
        .get("parameters")
        .map(|parameters| &parameters["vSockCid"])
    {
        Some(Value::Null) => one_cid(TOOL, []).map(Answer::Cid),
        Some(Value::Number(number)) => {
            one_cid("systemd-machined", [&*number.to_string()]).map(Answer::Cid)
        }
        _ => Err(said()),
    }
}

fn ask_tool(name: &str, deadline: Moment) -> Result<Cid, String> {
    let question = ["show", "--no-pager", "--property", PROPERTY, "--", name];
    let Some(said) = tool::ask(TOOL, &question, deadline)? else {
        return Err("neither systemd-machined nor machinectl is there \
             (is the package systemd-container installed?)"
            .to_owned());
    };
    let answer = said.answer.trim();
    if answer.is_empty() && said.complaint.contains("No machine") {
        return Err(UNKNOWN.to_owned());
    }
    if answer.is_empty() && said.complaint.trim().is_empty() {
        return Err("this systemd-machined knows no CIDs (systemd 256 and newer do)".to_owned());
    }
    if answer.is_empty() {
        return Err(said.problem(TOOL));
    }
    let cids: Option<Vec<&str>> = answer
        .lines()
        .map(|line| line.strip_prefix(PROPERTY)?.strip_prefix('='))
        .collect();
    let Some(cids) = cids else {
        return Err(format!("machinectl said \"{}\"", shown(answer)));
    };
    one_cid(TOOL, cids.into_iter().filter(|cid| *cid != NO_CID))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_cid_or_says_that_there_is_no_such_machine() {
        let cid = read(br#"{"parameters":{"name":"web","class":"vm","vSockCid":7}}"#);
        assert_eq!(cid, Ok(Answer::Cid(Cid::new(7).unwrap())));
        let unknown = read(br#"{"error":"io.systemd.Machine.NoSuchMachine","parameters":{}}"#);
        assert_eq!(unknown, Ok(Answer::Unknown));
        let old =
            read(br#"{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}"#);
        assert_eq!(old, Ok(Answer::Absent));
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
