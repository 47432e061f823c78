//! vsock-connect and vsock-bridge at the socket of a VMM: `CONNECT port` and `OK number`, and then not a byte is lost.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use crate::common::bridge::Bridge;
use crate::common::connect::{connect, passed, piped};
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place, pair_of_sockets, ping};
use crate::common::program::Program;
use crate::common::vmm::asked;
use socket2::Socket;

/// Starts vsock-connect at the VMM with a form of the address.
fn start(place: &Place, options: &[&str]) -> Program {
    let host = format!("vsock-mux{}", place.text);
    piped(&[options, &[&host, "4711"]].concat())
}

/// Ends a connection in good order.
fn expect_exit_0(mut program: Program, vm: Socket) {
    drop((vm, program.stdin()));
    assert_eq!(read_to_end(&mut program.stdout()), (vec![], End::Clean));
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
}

#[test]
fn every_form_of_the_address_asks_for_the_port() {
    ask_in_every_form(&Place::listening(Kind::Unix));
}

#[test]
fn every_form_of_the_address_asks_for_the_port_at_a_path_longer_than_an_address() {
    let place = Place::far();
    place.socket.listen(1).unwrap();
    ask_in_every_form(&place);
}

fn ask_in_every_form(place: &Place) {
    let path = &place.text;
    for (arguments, port) in [
        (vec![format!("vsock-mux{path}")], 22),
        (vec![format!("vsock-mux/{path}")], 22),
        (vec![format!("vsock-mux%{path}"), "0".into()], 0),
        (
            vec![format!("vsock-mux{path}"), "4294967294".into()],
            4_294_967_294,
        ),
        (vec![format!("vsock-mux:{path}:445")], 445),
    ] {
        let program = piped(&arguments);
        let mut vm = asked(place, port);
        vm.write_all(b"OK 1\n").unwrap();
        expect_exit_0(program, vm);
    }
}

#[test]
fn the_answer_comes_byte_by_byte_and_not_a_byte_behind_it_is_lost() {
    let place = Place::listening(Kind::Unix);
    let content = Content::new(61);
    let mut program = start(&place, &[]);
    let mut vm = asked(&place, 4711);
    for byte in b"OK 1073741824\n" {
        // Not the event that matters, only a chance for the other side to see each byte alone.
        std::thread::yield_now();
        vm.write_all(&[*byte]).unwrap();
    }
    std::thread::scope(|scope| {
        let mut stdout = program.stdout();
        let content = &content;
        scope.spawn(move || content.expect_all(&mut stdout, 3 << 20));
        content.send(&mut vm, 3 << 20);
        drop((vm, program.stdin()));
    });
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
}

#[test]
fn the_vmm_sends_no_answer_every_byte_is_the_streams_whatever_it_is() {
    for first in [&b"SSH-2.0-server\r\n"[..], b"OK 1\n", b"O"] {
        let (vmm_socket, listener) = (Place::listening(Kind::Unix), Place::listening(Kind::Tcp6));
        let mut program = start(&vmm_socket, &["--mux-answer", "none"]);
        let mut vm = asked(&vmm_socket, 4711);
        vm.write_all(first).unwrap();
        let mut bytes = vec![0; first.len()];
        program.stdout().read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, first);
        drop((vm, program.stdin()));
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);

        let bridge = Bridge::to(&format!("vsock-mux:{}:445", vmm_socket.text))
            .variable("VSOCK_BRIDGE_MUX_ANSWER", "none")
            .listener(&listener)
            .start();
        // The client begins.
        let mut client = listener.connect();
        let mut vm = asked(&vmm_socket, 445);
        ping(&mut client, &mut vm);
        vm.write_all(first).unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, first);
        drop((client, vm));
        bridge.stop();
    }
}

#[test]
fn the_vmm_sends_no_answer_and_one_is_expected_the_line_names_the_setting() {
    let place = Place::listening(Kind::Unix);
    let mut program = start(&place, &[]);
    asked(&place, 4711)
        .write_all(b"SSH-2.0-server\r\n")
        .unwrap();
    assert_eq!(program.exit_code(), 255, "{:#?}", program.log);
    let [line] = &program.log[..] else {
        panic!("{:#?}", program.log)
    };
    assert!(line.contains("--mux-answer none"), "{line}");
}

#[test]
fn the_stream_is_glued_to_the_answer_and_not_a_byte_is_lost() {
    let place = Place::listening(Kind::Unix);
    for glued in [&b"x"[..], b"SSH-2.0-OpenSSH\r\n", b"\nOK 2\n", &[0; 5000]] {
        let mut program = start(&place, &[]);
        let mut vm = asked(&place, 4711);
        vm.write_all(&[b"OK 5\n", glued].concat()).unwrap();
        drop((vm, program.stdin()));
        let received = read_to_end(&mut program.stdout());
        assert_eq!(received, (glued.to_vec(), End::Clean));
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    }
}

#[test]
fn fdpass_passes_the_stream_from_its_first_byte() {
    let place = Place::listening(Kind::Unix);
    let (ours, theirs) = pair_of_sockets();
    let mut command = connect(&["--fdpass", &format!("vsock-mux{}", place.text), "22"]);
    command.stdout(OwnedFd::from(theirs));
    let mut program = Program::start(command);
    let mut vm = asked(&place, 22);
    vm.write_all(b"OK 5\nSSH-2.0-x\r\n").unwrap();
    assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    let mut client = Socket::from(passed(&ours));
    client.write_all(b"SSH-2.0-y\r\n").unwrap();
    let mut bytes = [0; 11];
    vm.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"SSH-2.0-y\r\n");
    drop(vm);
    assert_eq!(
        read_to_end(&mut client),
        (b"SSH-2.0-x\r\n".to_vec(), End::Clean)
    );
}

#[test]
fn the_answer_is_something_else_exits_255_with_one_line() {
    let place = Place::listening(Kind::Unix);
    let endless = vec![b'9'; 100_000];
    for answer in [
        &b"ERR 1\n"[..],
        b"OK\n",
        b"OK \n",
        b"OK x\n",
        b"ok 1\n",
        b"OK 1 2\n",
        b"\n",
        b"\0\0\0\0\n",
        b"OK 1\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
        &endless,
    ] {
        let mut program = start(&place, &["--wait", "1h"]);
        let mut vm = asked(&place, 4711);
        // It may hang up before it has heard all.
        let _ = vm.write_all(answer);
        expect_failure(&mut program, "expected `OK port`");
        assert!(program.log[0].len() < 300, "{:?}", program.log);
    }
}

fn expect_failure(program: &mut Program, words: &str) {
    assert_eq!(program.exit_code(), 255, "{:#?}", program.log);
    assert_eq!(program.log.len(), 1, "{:#?}", program.log);
    assert!(program.log[0].contains(words), "{:?}", program.log);
}

#[test]
fn the_vmm_hangs_up_exits_255_and_the_line_says_that_nothing_listens() {
    let place = Place::listening(Kind::Unix);
    for beginning in [&b""[..], b"O", b"OK 1"] {
        let mut program = start(&place, &[]);
        let mut vm = asked(&place, 4711);
        vm.write_all(beginning).unwrap();
        drop(vm);
        expect_failure(&mut program, "nothing listens on that port in the VM");
    }
}

#[test]
fn the_vmm_hangs_up_before_the_request_exits_255() {
    let place = Place::listening(Kind::Unix);
    let mut program = start(&place, &[]);
    drop(place.accept());
    expect_failure(&mut program, "nothing listens on that port in the VM");
}

#[test]
fn the_vmm_says_nothing_exits_255_after_the_connect_timeout() {
    let place = Place::listening(Kind::Unix);
    let mut program = start(&place, &["--connect-timeout", "300ms"]);
    let mut vm = asked(&place, 4711);
    // It may have given up already.
    let _ = vm.write_all(b"OK ");
    expect_failure(&mut program, "no answer within 300ms");
}

#[test]
fn the_vm_refuses_twice_while_it_waits_then_accepts_exits_0() {
    let place = Place::listening(Kind::Unix);
    let program = start(&place, &["--wait", "1h"]);
    drop(asked(&place, 4711));
    drop(asked(&place, 4711));
    let mut vm = asked(&place, 4711);
    vm.write_all(b"OK 1\n").unwrap();
    expect_exit_0(program, vm);
}

#[test]
fn a_bridge_to_a_vmm_serves_with_the_stream_glued_to_the_answer() {
    let (listener, place) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&format!("vsock-mux:{}:445", place.text))
        .listener(&listener)
        .start();
    let mut client = listener.connect();
    client.write_all(b"early").unwrap();
    let mut vm = asked(&place, 445);
    vm.write_all(b"OK 77\nfirst").unwrap();
    let mut bytes = [0; 5];
    vm.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"early");
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"first");
    ping(&mut client, &mut vm);
    drop((client, vm));
    bridge.stop();
}

#[test]
fn a_name_that_the_administrator_gives_to_a_socket_leads_there() {
    let place = Place::listening(Kind::Unix);
    let names = format!("web=3 hy={}", place.text);
    let program = piped(&["--names", &names, "vsock/hy", "4711"]);
    let mut vm = asked(&place, 4711);
    vm.write_all(b"OK 1\n").unwrap();
    expect_exit_0(program, vm);
    let listener = Place::listening(Kind::Tcp6);
    let bridge = Bridge::to("vsock:hy:445").arguments(&["--names", &names]);
    let bridge = bridge.listener(&listener).start();
    let mut client = listener.connect();
    let mut vm = asked(&place, 445);
    vm.write_all(b"OK 1\n").unwrap();
    ping(&mut client, &mut vm);
    drop((client, vm));
    bridge.stop();
}

/// As a monitor does while its guest boots: nothing of the client's may be lost with the connections that were hung up.
#[test]
fn a_vmm_hangs_up_twice_while_a_bridge_waits_then_accepts_all_that_the_client_has_sent_arrives() {
    let (listener, place) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&format!("vsock-mux:{}:4711", place.text));
    let bridge = bridge.arguments(&["--connect-retry", "1h"]);
    let bridge = bridge.listener(&listener).start();
    let mut client = listener.connect();
    client.write_all(b"early").unwrap();
    drop(asked(&place, 4711));
    drop(asked(&place, 4711));
    let mut vm = asked(&place, 4711);
    vm.write_all(b"OK 1\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut vm), (b"early".to_vec(), End::Clean));
    vm.write_all(b"late").unwrap();
    drop(vm);
    assert_eq!(read_to_end(&mut client), (b"late".to_vec(), End::Clean));
    bridge.stop();
}

#[test]
fn a_vmm_that_is_silent_refuses_or_talks_nonsense_delays_no_other_client_of_a_bridge() {
    let (listener, place) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&format!("vsock-mux:{}:445", place.text))
        .arguments(&["--connect-timeout", "1h"])
        .listener(&listener)
        .start();
    // One after the other, so that it is known which is whose.
    let open = || (listener.connect(), asked(&place, 445));
    let _silent = open();
    let (mut refused, vm) = open();
    drop(vm);
    assert_eq!(read_to_end(&mut refused), (vec![], End::Reset));
    let (mut confused, mut vm) = open();
    vm.write_all(b"nonsense\n").unwrap();
    assert_eq!(read_to_end(&mut confused), (vec![], End::Reset));
    let (mut client, mut vm) = open();
    vm.write_all(b"OK 1\n").unwrap();
    ping(&mut client, &mut vm);
    drop(bridge);
}
