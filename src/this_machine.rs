//! What systemd tells of this machine: its id for one application, and where the credentials of the service are.

use std::env;
use std::path::{Path, PathBuf};

use libsystemd::errors::SdError;
use libsystemd::id128::Id128;

use crate::configured::{self, Origin, System};
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::prefix::Prefix;
use crate::via::Via;

/// Finds the prefix of this machine; see [`configured::prefix`].
pub(crate) fn prefix(given: Option<Prefix>, root: &Path) -> Result<(Prefix, Origin)> {
    Ok(configured::prefix(given, root, &SYSTEM)?)
}

/// Finds the gateway through which this machine reaches others; see [`configured::via`].
pub(crate) fn via(given: Option<Via>, root: &Path) -> Result<Option<(Endpoint, Origin)>> {
    Ok(configured::via(given, root, &SYSTEM)?)
}

const SYSTEM: System = System {
    credentials: || env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
    app_specific: |machine, application| {
        app_specific(machine, application).map_err(|error| error.to_string())
    },
};

fn app_specific(machine: u128, application: u128) -> std::result::Result<u128, SdError> {
    let [machine, application] = [machine, application].map(|id| format!("{id:032x}"));
    let digest = Id128::parse_str(&machine)?.app_specific(&Id128::parse_str(&application)?)?;
    let number = u128::from_str_radix(&digest.lower_hex(), 16);
    number.map_err(|error| SdError::from(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `systemd-id128 --app-specific` prints; the module for names has the same one.
    #[test]
    fn an_id_for_one_application_is_that_of_systemd() {
        let machine = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        let application = 0x5f0c_6a3b_e1d9_4e5f_8c26_b7b4_c1a0_9d37;
        assert_eq!(
            app_specific(machine, application).unwrap(),
            0xd256_8e89_6372_45c9_9ddc_bba1_b85c_93d1
        );
    }
}
