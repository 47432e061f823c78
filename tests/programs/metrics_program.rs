//! vsockctl metrics: the numbers of bridges in both formats, and the list of them in the manual.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use crate::common::bridge::Bridge;
use crate::common::eventually;
use crate::common::examples::root;
use crate::common::exposition::{Exposition, Family};
use crate::common::own_run::OwnRun;
use crate::common::place::{Kind, Place, ping};
use crate::common::program::{Program, ours};
use crate::common::served::{expect_output, own_run, serve, vsockctl};
use nix::sys::signal::Signal;

const BRIDGE: &str = "vsock-bridge@445";

fn read(run: &OwnRun) -> Exposition {
    Exposition::read(&expect_output(vsockctl(run, &["metrics"])))
}

/// Writes the name of a sample of the bridge.
fn sample(name: &str, labels: &str) -> String {
    format!("vsock_bridge_{name}{{bridge=\"{BRIDGE}\"{labels}}}")
}

#[test]
fn metrics_are_in_both_formats_with_the_same_numbers() {
    let Some(run) = own_run() else { return };
    let served = serve(&run, BRIDGE);
    let _other = served.listener.connect();
    drop(UnixListener::bind(run.service("stale@1").join("control")).unwrap());
    let _served_too = served.target.accept();
    let finished = vsockctl(&run, &["metrics"]);
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (1, 1),
        "{finished:#?}"
    );
    let read = Exposition::read(&finished.stdout);
    for (name, labels, value) in [
        ("up", "", 1.0),
        ("connections", r#",peer="::1""#, 2.0),
        ("connections_served_total", "", 0.0),
        ("refused_total", r#",reason="max_connections""#, 0.0),
        ("unreachable_total", r#",reason="timeout""#, 0.0),
        ("bytes_total", r#",direction="inbound""#, 1.0),
        ("bytes_total", r#",direction="outbound""#, 1.0),
        ("connect_duration_seconds_bucket", r#",le="10.0""#, 2.0),
        ("connect_duration_seconds_count", "", 2.0),
    ] {
        assert_eq!(read.value(&sample(name, labels)), value, "{name}{labels}");
    }
    assert_eq!(read.value(r#"vsock_bridge_up{bridge="stale@1"}"#), 0.0);
    let seconds = read.value(&sample("connect_duration_seconds_sum", ""));
    assert!(seconds > 0.0 && seconds < 20.0, "{seconds}");

    let finished = vsockctl(&run, &["metrics", "--openmetrics"]);
    let openmetrics = Exposition::read_openmetrics(&finished.stdout);
    let samples = |exposition: Exposition| -> BTreeMap<String, f64> {
        let families = exposition.0.into_values();
        families.flat_map(|family| family.samples).collect()
    };
    assert_eq!(samples(openmetrics), samples(read));
}

/// Returns how many connections of a listener nobody has accepted: each has its path, and so has the listener.
fn waiting_on(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let path = path.to_str().unwrap();
    table.lines().filter(|line| line.ends_with(path)).count() - 1
}

/// A bridge answers four at a time.
#[test]
fn as_many_ask_at_once_as_may_by_http_and_each_is_answered() {
    let Some(run) = own_run() else { return };
    let served = serve(&run, BRIDGE);
    // All of them wait in its queue when it goes on.
    served.bridge.signal(Signal::SIGSTOP);
    let mut programs: Vec<Program> = (0..16)
        .map(|_| {
            let mut vsockctl = run.command(ours("vsockctl"));
            vsockctl.arg("metrics").stdout(Stdio::null());
            Program::start(vsockctl)
        })
        .collect();
    let queue = run.control(BRIDGE);
    eventually("all have asked", || waiting_on(&queue) == 16);
    served.bridge.signal(Signal::SIGCONT);
    for program in &mut programs {
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
    }
}

#[test]
fn no_bridge_is_there_the_names_are_there_without_numbers() {
    let Some(run) = own_run() else { return };
    let families = read(&run).0;
    assert_eq!(families.len(), 7);
    assert!(families.values().all(|family| family.samples.is_empty()));
}

#[test]
fn refusals_and_failures_are_counted_by_their_reasons() {
    let Some(run) = own_run() else { return };
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let limits = ["--max-connections", "2", "--max-connections-per-peer", "1"];
    let bridge = Bridge::to(&target.text).arguments(&limits);
    let bridge = run.serve(BRIDGE, bridge.listener(&listener)).start();
    let (mut client, mut server) = (listener.connect(), target.accept());
    ping(&mut client, &mut server);
    listener.expect_refusal();
    listener.expect_refusal();
    drop((client, server));
    let served = sample("connections_served_total", "");
    eventually("the first is over", || read(&run).value(&served) == 1.0);
    // It does not listen any more.
    target.socket.shutdown(Shutdown::Both).unwrap();
    listener.expect_refusal();

    let failed = sample("unreachable_total", r#",reason="refused""#);
    eventually("it is counted", || read(&run).value(&failed) == 1.0);
    let read = read(&run);
    let sum = |family: &Family| family.samples.values().sum::<f64>();
    assert_eq!(sum(&read.0["vsock_bridge_unreachable_total"]), 1.0);
    assert_eq!(sum(&read.0["vsock_bridge_refused_total"]), 2.0);
    let of_peer = sample("refused_total", r#",reason="max_connections_per_peer""#);
    assert_eq!(read.value(&of_peer), 2.0);
    // Only what was reached has a time.
    assert_eq!(
        read.value(&sample("connect_duration_seconds_count", "")),
        1.0
    );
    bridge.stop();
}

/// Returns the items of METRICS in vsockctl(8): names of metrics, each with its type, its labels and the items below it.
fn told() -> BTreeMap<String, (String, BTreeSet<String>, BTreeSet<String>)> {
    let page = fs::read_to_string(root().join("man/vsockctl.8")).unwrap();
    let section = page.split(".Sh METRICS\n").nth(1).unwrap();
    let section = section.split("\n.Sh ").next().unwrap();
    let mut told = BTreeMap::new();
    let mut name = String::new();
    for item in section
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
    {
        let mut words = item
            .split(' ')
            .filter(|word| !["Pq", "Cm", ","].contains(word));
        let first = words.next().unwrap();
        if first.starts_with("vsock_bridge_") {
            first.clone_into(&mut name);
            let kind = words.next().unwrap().to_owned();
            let labels = words.map(str::to_owned).collect();
            let before = told.insert(name.clone(), (kind, labels, BTreeSet::new()));
            assert!(before.is_none(), "twice: {item}");
        } else {
            let (.., below) = told.get_mut(&name).unwrap();
            assert!(below.insert(first.to_owned()), "twice: {item}");
        }
    }
    told
}

#[test]
fn the_manual_lists_each_metric_with_its_type_its_labels_and_their_values() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, BRIDGE);
    let families = read(&run).0;
    let values = |family: &Family, label: &str| -> BTreeSet<String> {
        let label = format!(",{label}=\"");
        let values = family
            .samples
            .keys()
            .filter_map(|sample| sample.split_once(&label));
        values
            .map(|(_, rest)| rest.split('"').next().unwrap().to_owned())
            .collect()
    };
    let printed: BTreeMap<String, _> = families
        .iter()
        .map(|(name, family)| {
            let below = match family.labels.contains("direction") {
                true => values(family, "direction"),
                false => values(family, "reason"),
            };
            (
                name.clone(),
                (family.kind.clone(), family.labels.clone(), below),
            )
        })
        .collect();
    assert_eq!(told(), printed);
}

/// Returns the names of metrics in a file of docs/monitoring.
fn named(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/monitoring").join(file)).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("vsock_bridge_"));
    names.map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_there_are_and_the_dashboard_all_of_them() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, BRIDGE);
    let samples = read(&run).0.into_values().flat_map(|family| family.samples);
    let printed: BTreeSet<String> = samples
        .map(|(sample, _)| sample.split('{').next().unwrap().to_owned())
        .collect();
    let (rules, dashboard) = (named("alerts.yml"), named("dashboard.json"));
    assert!(rules.len() > 3, "{rules:?}");
    let unknown: Vec<_> = rules.difference(&printed).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(dashboard, printed);
}
