//! What the tests of the programs and the load generator take from the inside of the library, and nobody else.

pub use crate::accounting::snapshot::{Snapshot, Stage};
pub use crate::peer::Peer;
pub use crate::proxy_protocol::{Version, header};
pub use crate::sys::{drop_packet, peek_packet, unacknowledged_bytes};
pub use crate::unix_path::bind;
