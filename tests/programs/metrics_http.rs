//! vsockctl metrics --http: one request on the connection that is its standard input, and what anybody may send instead.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::DEADLINE;
use crate::common::exposition::Exposition;
use crate::common::own_run::OwnRun;
use crate::common::program::{Program, command, finish, ours};
use crate::common::served::{expect_output, own_run, serve, vsockctl};

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: [::1]:10400\r\n";
/// What Prometheus 2.42 sends.
const OPENMETRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
    q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";

/// Starts the program with its connection, over TCP, and returns the other end.
fn ask(run: &OwnRun) -> (Program, TcpStream) {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let (connection, _) = listener.accept().unwrap();
    (answer_on(run, connection.into()), client)
}

fn answer_on(run: &OwnRun, connection: OwnedFd) -> Program {
    let mut vsockctl = run.command(ours("vsockctl"));
    vsockctl.args(["metrics", "--http"]);
    vsockctl.stdin(Stdio::from(connection));
    Program::start(vsockctl)
}

/// Sends all, and returns what comes back, to the end: the head and the body.
fn exchange(run: &OwnRun, request: &str) -> (String, String) {
    let (mut program, mut client) = ask(run);
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    drop(client);
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = format!("\r\nContent-Length: {}", body.len());
    let is_head = request.starts_with("HEAD");
    assert!(is_head || head.contains(&length), "{answer}");
    assert!(head.ends_with("\r\nConnection: close"), "{answer}");
    (head.to_owned(), body.to_owned())
}

#[test]
fn metrics_are_told_in_the_format_that_is_asked_for() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, "vsock-bridge@445");
    let (head, body) = exchange(&run, &format!("{GET}\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    let up = r#"vsock_bridge_up{bridge="vsock-bridge@445"}"#;
    assert_eq!(Exposition::read(&body).value(up), 1.0);
    assert_eq!(body, expect_output(vsockctl(&run, &["metrics"])));

    let (head, body) = exchange(&run, &format!("{GET}{OPENMETRICS}\r\n"));
    let content =
        "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(content), "{head}");
    assert_eq!(Exposition::read_openmetrics(&body).value(up), 1.0);

    let (head, body) = exchange(&run, &format!("{}\r\n", GET.replace("GET", "HEAD")));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(body, "");
}

#[test]
fn head_has_no_body_whatever_the_status() {
    let Some(run) = own_run() else { return };
    let (head, body) = exchange(&run, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
    assert_eq!(body, "");
}

#[test]
fn any_other_request_gets_its_status_whatever_follows_it() {
    let Some(run) = own_run() else { return };
    let body = "x".repeat(20_000);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {body}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404 Not Found"),
        (&GET.replace("GET", "POST"), "405 Method Not Allowed"),
        ("GET /metrics HTTP/2.0\r\n\r\n", "505 HTTP Version"),
        ("\u{16}\u{3}\u{1}TLS\r\n\r\n", "400 Bad Request"),
        (&*long, "431 Request Header"),
    ] {
        // A body that nobody reads must not reset the connection before its end has read the answer.
        let (head, text) = exchange(&run, &format!("{request}\r\n{body}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert!(!text.is_empty() && text.len() < 100, "{text}");
    }
}

#[test]
fn a_name_that_a_web_page_may_have_is_refused_on_loopback_alone() {
    let Some(run) = own_run() else { return };
    let get = |host: &str| format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["localhost:10400", "127.0.0.1", "web.vsock:10400"] {
        let (head, _) = exchange(&run, &get(host));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{host}: {head}");
    }
    let (head, text) = exchange(&run, &get("rebound.example:10400"));
    let refusal = "HTTP/1.1 421 Misdirected Request\r\n";
    assert!(head.starts_with(refusal), "{head}");
    assert!(text.contains("localhost"), "{text}");
    answered_over_unix(&run, [get("rebound.example").as_bytes()]);
}

/// A request over a unix socket, in these pieces, is answered.
fn answered_over_unix<'a>(run: &OwnRun, pieces: impl IntoIterator<Item = &'a [u8]>) {
    let (mut client, connection) = UnixStream::pair().unwrap();
    let mut program = answer_on(run, connection.into());
    for piece in pieces {
        client.write_all(piece).unwrap();
    }
    let mut answer = String::new();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    drop(client);
    assert_eq!(program.exit_code(), 0);
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered_over_any_family() {
    let Some(run) = own_run() else { return };
    answered_over_unix(&run, format!("{GET}\r\n").as_bytes().chunks(1));
}

#[test]
fn a_request_that_never_ends_is_closed_in_time_and_one_that_never_began_in_silence() {
    let Some(run) = own_run() else { return };
    let began = Instant::now();
    let ((mut half, mut client), (mut silent, mut other)) = (ask(&run), ask(&run));
    client.write_all(GET.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(other.read_to_string(&mut answer).unwrap(), 0);
    assert!(began.elapsed() > Duration::from_secs(4));
    // They do not close, and are not waited for.
    assert_eq!((half.exit_code(), silent.exit_code()), (0, 0));
}

#[test]
fn whoever_goes_before_the_answer_is_no_failure() {
    let Some(run) = own_run() else { return };
    for request in ["", GET, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let (mut program, mut client) = ask(&run);
        client.write_all(request.as_bytes()).unwrap();
        drop(client);
        assert_eq!(program.exit_code(), 0, "{request}: {:#?}", program.log);
    }
}

#[test]
fn a_client_that_ends_its_direction_first_is_answered() {
    let Some(run) = own_run() else { return };
    let (mut program, mut client) = ask(&run);
    client.write_all(format!("{GET}\r\n").as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(program.exit_code(), 0);
}

#[test]
fn a_client_that_reads_nothing_is_left_in_time() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, "vsock-bridge@445");
    // Less room than the answer needs.
    let (mut client, connection) = UnixStream::pair().unwrap();
    connection.set_nonblocking(true).unwrap();
    while let Ok(count) = (&connection).write(&[0; 4096]) {
        assert!(count > 0);
    }
    connection.set_nonblocking(false).unwrap();
    let mut program = answer_on(&run, connection.into());
    client.write_all(format!("{GET}\r\n").as_bytes()).unwrap();
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|&byte| byte == 0));
}

#[test]
fn a_bridge_that_does_not_answer_is_down_and_named_in_the_log() {
    let Some(run) = own_run() else { return };
    let stale = run.service("stale@1").join("control");
    drop(std::os::unix::net::UnixListener::bind(stale).unwrap());
    let (mut program, mut client) = ask(&run);
    client.write_all(format!("{GET}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("vsock_bridge_up{bridge=\"stale@1\"} 0\n"),
        "{answer}"
    );
    drop(client);
    program.wait_for_line("its process is gone");
    assert_eq!(program.exit_code(), 0);
}

#[test]
fn standard_input_is_no_connection_exits_2_and_names_the_unit() {
    let mut vsockctl = command(ours("vsockctl"));
    vsockctl.args(["metrics", "--http"]);
    let finished = finish(vsockctl);
    assert_eq!(finished.code, 2, "{finished:#?}");
    let [line] = &finished.stderr[..] else {
        panic!("{finished:#?}")
    };
    assert!(line.contains("vsock-bridge-metrics.socket"), "{line}");
}
