//! A running program: its log, its signals, its end. What is still running when the test ends is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::DEADLINE;

/// Begins a command without the environment of the test.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null());
    command
}

/// Has one of our programs find prefix and names in its environment, and so read nothing in the /etc of this machine.
pub fn with_own_settings(command: &mut Command) -> &mut Command {
    command
        .env("VSOCK_BRIDGE_PREFIX", "fd00:1:2:3::/64")
        .env("VSOCK_BRIDGE_NAMES", "")
}

/// Names one of our programs: that in the folder `$VSOCK_BRIDGE_PROGRAMS`, such as the one of the packages, else the one
/// that cargo has built for the tests.
pub fn ours(name: &str) -> String {
    let folder = match std::env::var("VSOCK_BRIDGE_PROGRAMS") {
        Ok(folder) => std::fs::canonicalize(folder).unwrap(),
        Err(_) => Path::new(env!("CARGO_BIN_EXE_vsock-bridge"))
            .parent()
            .unwrap()
            .to_owned(),
    };
    folder.join(name).to_str().unwrap().to_owned()
}

/// Names where programs are looked for, with ours in front.
pub fn path_with_ours() -> String {
    let ours = ours("vsockctl");
    let folder = Path::new(&ours).parent().unwrap().display();
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}

pub struct Program {
    child: Child,
    lines: Receiver<String>,
    /// The lines of stderr so far.
    pub log: Vec<String>,
}

impl Program {
    /// Starts a command and listens to its stderr.
    pub fn start(mut command: Command) -> Program {
        command.stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = child.stderr.take().unwrap();
        Program {
            child,
            lines: lines(stderr),
            log: Vec::new(),
        }
    }

    /// Starts a command whose stderr is for the caller to read, or for nobody.
    pub fn start_unheard(mut command: Command, stderr: File) -> Program {
        command.stderr(stderr);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Program {
            child,
            lines: channel().1,
            log: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Listens to what it was started with as stderr from now on.
    pub fn hear(&mut self, stderr: File) {
        self.lines = lines(stderr);
    }

    /// Waits for a line with that text; one that was waited for before does not count again.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line {text:?}: {:#?}", self.log),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without a line {text:?}: {:#?}", self.log)
                }
            }
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let until = Instant::now() + DEADLINE;
        while status.is_none() {
            if Instant::now() >= until {
                self.log.extend(self.lines.try_iter());
                panic!("did not end: {:#?}", self.log);
            }
            std::thread::sleep(Duration::from_millis(2));
            status = self.child.try_wait().unwrap();
        }
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.log.push(line);
        }
        status.unwrap()
    }

    /// Waits for its end and gives the status as a shell does.
    pub fn exit_code(&mut self) -> i32 {
        let status = self.wait();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// Ends it as systemd does; gives its whole log.
    pub fn stop(mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.exit_code(), 0, "{:#?}", self.log);
        std::mem::take(&mut self.log)
    }

    /// The number that its next descriptor gets.
    pub fn lowest_free_descriptor(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.pid());
        let is_free = |number: &usize| !Path::new(&format!("{directory}/{number}")).is_symlink();
        (0..).find(is_free).unwrap()
    }

    /// Limits the descriptors of the running program.
    pub fn limit_descriptors(&self, limit: usize) {
        let mut prlimit = command("prlimit");
        prlimit.arg(format!("--pid={}", self.pid()));
        prlimit.arg(format!("--nofile={limit}:"));
        let finished = finish(prlimit);
        assert_eq!(finished.code, 0, "{finished:?}");
    }

    /// Counts its open descriptors.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).unwrap().count()
    }

    /// The processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Fields 14 and 15, counted behind the name in brackets, in ticks of 10 ms (proc(5)).
        let fields: Vec<&str> = text.rsplit(')').next().unwrap().split(' ').collect();
        let ticks: u64 = [fields[12], fields[13]]
            .iter()
            .map(|f| f.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

/// Reads lines in a thread, until the end or until nobody wants them any more.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program that runs by itself has left.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: Vec<String>,
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Finished {
    command.stdout(Stdio::piped());
    let mut program = Program::start(command);
    let mut stdout = program.stdout();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let code = program.exit_code();
    let bytes = reader.join().unwrap().unwrap();
    Finished {
        code,
        stdout: String::from_utf8(bytes).unwrap(),
        stderr: std::mem::take(&mut program.log),
    }
}
