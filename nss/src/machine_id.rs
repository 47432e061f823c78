//! The machine id, hashed for one application: libsystemd does the same for the programs, with seventeen crates more,
//! which a module that every process loads should not need.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Returns what sd_id128_get_machine_app_specific(3) does.
pub(crate) fn app_specific(machine: u128, application: u128) -> u128 {
    // HMAC fills a key up with zeros (RFC 2104, section 2).
    let mut key = [0; 64];
    key[..16].copy_from_slice(&machine.to_be_bytes());
    let mut mac = Hmac::<Sha256>::new(&key.into());
    mac.update(&application.to_be_bytes());
    let digest: [u8; 32] = mac.finalize().into_bytes().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    // A version 4 UUID (RFC 9562), as all ids of systemd are.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    u128::from_be_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `systemd-id128 --app-specific` prints; the programs have the same one.
    #[test]
    fn an_id_for_one_application_is_that_of_systemd() {
        let machine = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        let application = 0x5f0c_6a3b_e1d9_4e5f_8c26_b7b4_c1a0_9d37;
        assert_eq!(
            app_specific(machine, application),
            0xd256_8e89_6372_45c9_9ddc_bba1_b85c_93d1
        );
    }
}
