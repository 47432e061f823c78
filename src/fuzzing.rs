//! What the fuzzers call: every reader of text or bytes that comes from somewhere else, with what must hold of it.
//!
//! Not for anybody else: `fuzz/` has a target for each function, and `tests/programs/fuzz_corpus.rs` runs all over the
//! corpus.
#![allow(clippy::unwrap_used, reason = "what panics here is found")]

use crate::allow_list::AllowList;
use crate::config_file;
use crate::endpoint::Endpoint;
use crate::gateway::request;
use crate::gateway::step::{REQUEST_MAX, Step};
use crate::gateway_rules;
use crate::known::Known;
use crate::listen_list::ListenList;
use crate::mux::{Answer, Handshake, Progress};
use crate::names::{Machine, Names};
use crate::prefix::Prefix;
use crate::programs::bridge::arguments::SourceArgument;
use crate::programs::connect::host;
use crate::programs::ctl;
use crate::programs::options::{TimeLimit, parse_positive, parse_time};
use crate::proxy_protocol::read::{Read, read};
use crate::registry::{self, Registry};
use crate::tunnel;
use crate::vsock::{Cid, VsockPort};

/// What a fuzzer calls: panics where something does not hold.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 16] = [
    ("endpoint", endpoint),
    ("cids", cids),
    ("prefix", prefix),
    ("proxy_header", proxy_header),
    ("config_file", config_file),
    ("settings", settings),
    ("names", names),
    ("registry", registry),
    ("host", host),
    ("mux_answer", mux_answer),
    ("tunnel_answer", tunnel_answer),
    ("tables", tables),
    ("hosts_file", hosts_file),
    ("http_request", http_request),
    ("gateway_request", gateway_request),
    ("gateway_rules", gateway_rules),
];

const PREFIX: &str = "fd00:1:2:3::/64";

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Addresses, and lists of those to listen on: what is printed is read again as the same.
pub fn endpoint(data: &[u8]) {
    if let Some(list) = text(data).and_then(|text| text.parse::<ListenList>().ok()) {
        assert_eq!(list.to_string().parse::<ListenList>().unwrap(), list);
    }
    let Some(endpoint) = text(data).and_then(|text| text.parse::<Endpoint>().ok()) else {
        return;
    };
    assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
    let _ = endpoint.into_target();
}

/// Lists of machines, CIDs and ports.
pub fn cids(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(list) = text.parse::<AllowList>() {
        let _ = list.resolve(&Known::with(
            Some(&Names::default().into()),
            &Registry::default(),
        ));
    }
    if let Ok(cid) = text.parse::<Cid>() {
        assert_eq!(cid.to_string().parse::<Cid>().unwrap(), cid);
    }
    if let Ok(port) = text.parse::<VsockPort>() {
        assert_eq!(port.to_string().parse::<VsockPort>().unwrap(), port);
    }
}

/// Prefixes, and the addresses of all machines in them.
pub fn prefix(data: &[u8]) {
    let Some(prefix) = text(data).and_then(|text| text.parse::<Prefix>().ok()) else {
        return;
    };
    assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
    for number in [1, 2, 3, 0xffff, 0xffff_fffe] {
        let cid = Cid::new(number).unwrap();
        assert_eq!(prefix.cid(prefix.address(cid)), Some(cid));
    }
}

/// Configuration files: a setting that is written is the one that is read, and no other changes.
pub fn config_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (settings, problems) = config_file::parse(&text);
    let count = text.lines().count();
    assert!(settings.iter().all(|s| (1..=count).contains(&s.line)));
    assert!(problems.iter().all(|(line, _)| (1..=count).contains(line)));
    let name = settings.first().map_or("NAME", |setting| &setting.name);
    let written = config_file::with_setting(&text, name, "value");
    let (after, problems_after) = config_file::parse(&written);
    let last = after.iter().rev().find(|setting| setting.name == name);
    assert_eq!(last.unwrap().value, "value");
    let others = |all: &[config_file::Setting]| {
        let others = all.iter().filter(|setting| setting.name != name);
        others.cloned().collect::<Vec<_>>()
    };
    assert_eq!(others(&after), others(&settings));
    assert_eq!(problems_after, problems);
}

/// Values of options.
pub fn settings(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let _ = parse_time(text);
    let _ = parse_positive(text);
    let _ = text.parse::<TimeLimit>();
    let _ = text.parse::<SourceArgument>();
}

/// Names of machines: each that is given leads to its machine.
pub fn names(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let _ = text.parse::<Machine>();
    let Ok(names) = text.parse::<Names>() else {
        return;
    };
    for machine in names.machines() {
        for name in names.of(machine) {
            let (given, registry) = (names.clone().into(), Registry::default());
            let known = Known::with(Some(&given), &registry);
            let found = known.cid(&name.parse().unwrap());
            assert_eq!(found.unwrap(), machine, "{name}");
        }
    }
}

/// Files of the registry: each line is a name, a problem or neither, and no name is there twice.
pub fn registry(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (entries, problems) = registry::parse(&text);
    let count = text.lines().count();
    let mut lines: Vec<usize> = entries.iter().map(|entry| entry.line).collect();
    lines.extend(problems.iter().map(|problem| problem.line));
    lines.sort_unstable();
    assert!(lines.iter().all(|line| (1..=count).contains(line)));
    assert!(lines.windows(2).all(|pair| pair[0] < pair[1]));
    let mut names: Vec<&str> = entries.iter().map(|entry| &*entry.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
}

/// HOST and PORT of vsock-connect, one on each line.
pub fn host(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (host, port) = match text.split_once('\n') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if let Ok(endpoint) = host::address(host, port, Some(PREFIX.parse().unwrap())) {
        assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
    }
}

/// What a VMM answers: only its line is taken, and only `OK` with a number is taken for one.
pub fn mux_answer(data: &[u8]) {
    let mut handshake = Handshake::new(22u16.into(), Answer::Ok);
    for (index, &byte) in data.iter().enumerate() {
        assert!(index < 32, "an answer without end");
        match handshake.take(byte) {
            Progress::Waiting => {}
            Progress::Accepted => {
                let line = text(&data[..=index]).unwrap();
                let number = line.strip_prefix("OK ").unwrap().strip_suffix('\n');
                assert!(number.unwrap().bytes().all(|b| b.is_ascii_digit()));
                return;
            }
            Progress::Refused | Progress::Garbage(_) => return,
        }
    }
}

/// Answers of a gateway, byte by byte and whole: both find the same end of it, and nothing behind is taken.
pub fn tunnel_answer(data: &[u8]) {
    let target = "vsock:4:22".parse().unwrap();
    let mut whole = tunnel::Handshake::new(&target).unwrap();
    let (taken, progress) = whole.take(data);
    assert!(taken <= data.len());
    let mut in_bytes = tunnel::Handshake::new(&target).unwrap();
    for (index, byte) in data.iter().enumerate() {
        match in_bytes.take(&[*byte]) {
            (1, tunnel::Progress::Waiting) => assert!(index <= 8192, "an answer without end"),
            (1, tunnel::Progress::Accepted) => {
                assert_eq!((index + 1, &progress), (taken, &tunnel::Progress::Accepted));
                return;
            }
            (count, _) => return assert_eq!(count, 1),
        }
    }
}

/// Headers of machines that a gateway brings: one that is whole is not changed by what follows it, nor whole before.
pub fn proxy_header(data: &[u8]) {
    let Read::Header(header) = read(data) else {
        return;
    };
    assert!(header.port != 0 && header.from.cid > Some(Cid::LOCAL));
    assert_eq!(read(&data[..header.length]), read(data));
    for end in 0..header.length {
        assert_eq!(read(&data[..end]), Read::Incomplete, "{end}");
    }
}

/// Tables of the kernel, and what systemctl shows.
pub fn tables(data: &[u8]) {
    ctl::check::read_tables(&String::from_utf8_lossy(data));
}

/// Requests for the metrics: one that is whole is not changed by what follows it.
pub fn http_request(data: &[u8]) {
    ctl::metrics::read_request(data);
}

/// Requests to the gateway: one that is decided is not changed by what follows it, and has an end within the bytes.
pub fn gateway_request(data: &[u8]) {
    let data = &data[..data.len().min(REQUEST_MAX)];
    let read = |bytes: &[u8]| match request::read(bytes, false) {
        Step::Greeting => request::read(bytes, true),
        step => step,
    };
    let whole = read(data);
    if let Step::Asked(request) = &whole {
        assert!(request.length <= data.len());
        assert_eq!(
            request.asked.to_string().parse::<Endpoint>().unwrap(),
            request.asked
        );
    }
    for end in 0..data.len() {
        let part = read(&data[..end]);
        if part != Step::Incomplete {
            assert_eq!(part, whole);
            return;
        }
    }
}

/// Rules of the gateway: each line is a rule, a comment or a problem, and the file of rules that are printed is the same.
pub fn gateway_rules(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (read, count) = (gateway_rules::parse(text), text.lines().count());
    let read: Vec<_> = read.collect();
    assert!(read.len() <= count);
    let (registry, names) = (Registry::default(), Names::default().into());
    let known = Known::with(Some(&names), &registry);
    for rule in read.into_iter().flatten() {
        assert!((1..=count).contains(&rule.line));
        let (rule, _) = rule.resolve("x".into(), &known);
        let again: Vec<_> = gateway_rules::parse(rule.text()).collect();
        assert!(matches!(again[..], [Ok(_)]), "{}", rule.text());
    }
}

/// /etc/hosts: putting the block in twice is the same as once, and removing it leaves none.
pub fn hosts_file(data: &[u8]) {
    let block = format!(
        "{}\nfd00::3\t3.vsock\n{}\n",
        ctl::hosts::BEGIN,
        ctl::hosts::END
    );
    let Ok(once) = ctl::hosts::with_block(data, &block) else {
        return;
    };
    assert_eq!(ctl::hosts::with_block(&once, &block).unwrap(), once);
    let removed = ctl::hosts::with_block(&once, "").unwrap();
    assert!(!removed.windows(block.len()).any(|w| w == block.as_bytes()));
}
