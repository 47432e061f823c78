//! The bridges and their open connections as tables, for people.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use bytesize::ByteSize;

use super::bridge::{Activity, Bridge};
use super::table::{Cell, Column, table};
use crate::accounting::snapshot::{OpenConnection, Snapshot, Stage};

/// A connection that is silent for longer catches the eye.
const LONG: Duration = Duration::from_secs(3600);

const GOOD: Style = AnsiColor::Green.on_default();
const CHANGING: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const QUIET: Style = Style::new().dimmed();

/// A line for each bridge, then the connections of each that has some; below titles if there are to be any.
pub(super) fn overview(bridges: &[Bridge], width: Option<usize>, has_titles: bool) -> String {
    if bridges.is_empty() {
        return String::new();
    }
    let columns = [
        Column::text("BRIDGE"),
        Column::text("STATE"),
        Column::text("LISTENER"),
        Column::text("TARGET"),
        Column::number("OPEN"),
        Column::number("SERVED").optional(),
        Column::number("REFUSED").optional(),
        Column::number("FAILED").optional(),
        Column::text("ALLOWED").optional(),
    ];
    let rows: Vec<_> = (bridges.iter())
        .map(|one| bridge(one, columns.len()))
        .collect();
    let mut lines = table(&columns, &rows, "", width, has_titles);
    for bridge in bridges {
        if let Activity::Running(snapshot) = &bridge.activity {
            lines.extend(connections(&bridge.name, snapshot, width, has_titles));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn bridge(bridge: &Bridge, columns: usize) -> Vec<Cell> {
    let mut cells = vec![Cell::new(&bridge.name)];
    match &bridge.activity {
        Activity::Running(snapshot) => cells.extend([
            state(&snapshot.state),
            Cell::new(snapshot.listeners.join(" ")),
            Cell::new(&snapshot.target),
            Cell::new(snapshot.connections.len()),
            Cell::new(snapshot.served),
            trouble(snapshot.refused),
            trouble(snapshot.unreachable),
            allowed(&snapshot.allow_cid),
        ]),
        Activity::Silent {
            state: word,
            listeners,
            allow_cid,
        } => {
            cells.extend([state(word), Cell::new(listeners.join(" "))]);
            cells.resize_with(columns - 1, Cell::nothing);
            cells.push(allowed(allow_cid));
        }
    }
    cells
}

fn state(word: &str) -> Cell {
    let style = match word {
        "serving" => GOOD,
        "waiting" => QUIET,
        "failed" | "failing" => BAD,
        _ => CHANGING,
    };
    Cell::new(word).style(style)
}

/// The machines that may connect, which only vsock tells.
fn allowed(allow_cid: &Option<String>) -> Cell {
    allow_cid.as_ref().map_or_else(Cell::nothing, Cell::new)
}

fn trouble(count: u64) -> Cell {
    let style = if count > 0 { CHANGING } else { Style::new() };
    Cell::new(count).style(style)
}

fn connections(
    name: &str,
    snapshot: &Snapshot,
    width: Option<usize>,
    has_titles: bool,
) -> Vec<String> {
    let Snapshot {
        connections,
        target,
        ..
    } = snapshot;
    if connections.is_empty() {
        return Vec::new();
    }
    let is_everywhere_the_same = connections.iter().all(|one| one.target == *target);
    let target = match is_everywhere_the_same {
        true => Column::text("TARGET").optional(),
        false => Column::text("TARGET"),
    };
    let columns = [
        Column::text("PEER"),
        target,
        Column::text("STAGE"),
        Column::number("IN"),
        Column::number("OUT"),
        Column::number("AGE"),
        Column::number("IDLE"),
    ];
    let rows: Vec<_> = connections.iter().map(connection).collect();
    let bold = Style::new().bold();
    let heading = [String::new(), format!("{bold}{name}{bold:#}")];
    let table = table(&columns, &rows, "  ", width, has_titles);
    heading.into_iter().chain(table).collect()
}

fn connection(connection: &OpenConnection) -> Vec<Cell> {
    let stage = match connection.stage {
        Stage::Connecting => Cell::new("connecting").style(CHANGING),
        Stage::Open => Cell::new("open"),
        Stage::HalfClosed => Cell::new("half-closed").style(CHANGING),
    };
    let idle = Cell::new(time(connection.idle_seconds));
    let is_long = connection.idle_seconds >= LONG.as_secs_f64();
    vec![
        Cell::new(&connection.peer),
        Cell::new(&connection.target),
        stage,
        bytes(connection.inbound_bytes),
        bytes(connection.outbound_bytes),
        Cell::new(time(connection.age_seconds)),
        if is_long { idle.style(CHANGING) } else { idle },
    ]
}

fn bytes(count: u64) -> Cell {
    Cell::new(ByteSize(count).display().iec_short())
}

/// Returns the two units that matter most.
fn time(seconds: f64) -> String {
    let time = Duration::from_secs(seconds as u64);
    let text = humantime::format_duration(time).to_string();
    let words: Vec<&str> = text.split(' ').take(2).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::ctl::bridges::example;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn bridges_and_connections_are_tables() {
        let expected = "\
BRIDGE                 STATE    LISTENER       TARGET     OPEN  SERVED  REFUSED  FAILED  ALLOWED
vsock-bridge-ipv6@445  waiting  [fd00::2]:445  -             -       -        -       -  -
vsock-bridge@445       serving  vsock::445     [::1]:445     3    1204        2       1  any

vsock-bridge@445
  PEER          TARGET     STAGE          IN   OUT     AGE   IDLE
  vsock:3:1025  [::1]:445  open         1.5G   12B   1h 2m     0s
  vsock:3:1026  [::1]:445  half-closed    0B  4.0K  3m 20s  2m 1s
  [::1]:50000   [::1]:445  connecting     0B    0B      1s     1s
";
        assert_eq!(plain(&overview(&example(), None, true)), expected);
    }

    #[test]
    fn without_titles_every_line_is_a_bridge_or_a_connection() {
        let titled = plain(&overview(&example(), None, true));
        let rows = titled
            .lines()
            .filter(|line| !line.contains("LISTENER") && !line.contains("PEER "));
        assert!(plain(&overview(&example(), None, false)).lines().eq(rows));
    }

    #[test]
    fn a_narrow_terminal_gets_no_totals() {
        let wide = overview(&example(), Some(96), true);
        assert_eq!(plain(&wide), plain(&overview(&example(), None, true)));
        let narrow = plain(&overview(&example(), Some(62), true));
        assert!(
            narrow.starts_with("BRIDGE                 STATE    LISTENER       TARGET     OPEN\n")
        );
        assert!(narrow.lines().all(|line| line.len() <= 62), "{narrow}");
    }

    #[test]
    fn targets_that_differ_are_never_left_out() {
        let mut bridges = example();
        if let Activity::Running(snapshot) = &mut bridges[1].activity {
            snapshot.connections[0].target = "vsock:3:80".to_owned();
        }
        assert!(overview(&bridges, Some(10), true).contains("vsock:3:80"));
    }

    #[test]
    fn what_differs_from_the_usual_has_a_colour() {
        let text = overview(&example(), None, true);
        for part in [
            "\x1b[32mserving\x1b",
            "\x1b[33mhalf-closed\x1b",
            "\x1b[33m2\x1b",
        ] {
            assert!(text.contains(part), "{part:?}: {text:?}");
        }
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.999, "0s"),
            (59.9, "59s"),
            (3600.0, "1h"),
            (90_061.0, "1day 1h"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }
}
