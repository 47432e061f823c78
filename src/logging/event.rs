//! Events that an administrator looks for, each with an identifier that `journalctl -x` explains.
//!
//! The texts are in packaging/catalog; a test compares the identifiers.

use std::fmt;

use log::{Level, Record};

/// One kind of event. `journalctl MESSAGE_ID=…` finds all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The identifier, 128 random bits.
    pub id: u128,
    /// How important it is.
    pub level: Level,
}

/// A connection is over.
pub const CONNECTION_OVER: Event = event(0xa7c2dae9_16f2424f_9f35a0ed_16b34dd7, Level::Info);
/// A connection was cut off by one end, or by a limit of ours.
pub const CONNECTION_BROKEN: Event = event(0x6fd6b6b7_0d504149_a2df6aa6_3c8e1d96, Level::Info);
/// A peer was not let in.
pub const PEER_REFUSED: Event = event(0xa9900e6c_ac284fa7_95c61913_1c2e38fd, Level::Warn);
/// The target of a connection could not be reached.
pub const TARGET_UNREACHABLE: Event = event(0x5049b70e_ca084433_9e80a242_1ad4c309, Level::Warn);
/// Descriptors or memory ran out, and no connection is accepted for a moment.
pub const ACCEPTING_PAUSED: Event = event(0xfb16c6d0_669e41ff_bbd83c0c_39d4729d, Level::Warn);
/// Connections were still open when the time to stop was over, and were reset.
pub const CONNECTIONS_RESET: Event = event(0x67dba94f_949c424a_b4716ae4_6374f117, Level::Warn);

/// All of them.
pub const ALL: [Event; 6] = [
    CONNECTION_OVER,
    CONNECTION_BROKEN,
    PEER_REFUSED,
    TARGET_UNREACHABLE,
    ACCEPTING_PAUSED,
    CONNECTIONS_RESET,
];

/// Names and values that go to the journal as fields.
pub type Fields = Vec<(&'static str, String)>;

const fn event(id: u128, level: Level) -> Event {
    Event { id, level }
}

impl Event {
    /// Returns whether anybody wants to read it; if not, its fields need not be made.
    pub fn is_wanted(self) -> bool {
        log::log_enabled!(self.level)
    }

    /// Logs it.
    pub fn log(self, mut fields: Fields, message: impl fmt::Display) {
        fields.push(("message_id", format!("{:032x}", self.id)));
        log::logger().log(
            &Record::builder()
                .level(self.level)
                .target(module_path!())
                .args(format_args!("{message}"))
                .key_values(&fields)
                .build(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_explains_each_event_once() {
        let catalog = include_str!("../../packaging/catalog/vsock-bridge.catalog");
        let heads = catalog.lines().filter(|line| line.starts_with("-- "));
        let mut in_catalog: Vec<&str> = heads.map(|line| &line[3..]).collect();
        let mut here: Vec<String> = ALL
            .iter()
            .map(|event| format!("{:032x}", event.id))
            .collect();
        in_catalog.sort_unstable();
        here.sort_unstable();
        assert_eq!(in_catalog, here);
    }
}
