//! Who comes to the gateway, by the name of a machine.

use crate::error::{Error, Result};
use crate::known::Known;
use crate::names::Machine;
use crate::unusable::Unusable;
use crate::vsock::Cid;

/// Returns as whom a machine comes.
///
/// Errors: those of [`Known::cid`]; what to write for a machine behind hybrid vsock, whose name has no CID.
pub(crate) fn cid_of(machine: &Machine, names: &Known<'_>) -> Result<Cid> {
    names.cid(machine).map_err(|problem| match problem {
        Unusable::NoCid { .. } => Error::Usage(without_cid(&problem)),
        problem => problem.into(),
    })
}

/// Says what to write for one who comes and has no CID.
pub(super) fn without_cid(problem: &Unusable) -> String {
    format!(
        "{problem}; as one who comes to the gateway it has a number, as in --machine 3 and the rule `3 db:5432`"
    )
}
