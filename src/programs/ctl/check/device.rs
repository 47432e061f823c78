//! /dev/vsock, of which the CID of this machine is asked.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::finding::{Finding, Level};
use super::units::Use;

/// The node.
pub(super) const PATH: &str = "/dev/vsock";

/// How far it can be used.
#[derive(Debug)]
pub(super) enum Device {
    /// By everybody, as udev makes it.
    Open,
    /// By root alone, or not by this user.
    Closed,
    /// There is no such node; its numbers, if the kernel has the device.
    Missing(Option<String>),
    /// It is there and does not work.
    Broken(io::Error),
}

/// Opens it.
pub(super) fn gather() -> Device {
    let is_for_all = |file: &File| {
        file.metadata()
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    };
    match File::open(PATH) {
        Ok(file) if is_for_all(&file) => Device::Open,
        Ok(_) => Device::Closed,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Device::Closed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let numbers = fs::read_to_string("/sys/class/misc/vsock/dev").ok();
            Device::Missing(numbers.map(|text| text.trim_end().replace(':', " ")))
        }
        Err(error) => Device::Broken(error),
    }
}

/// Checks that everybody can ask it.
pub(super) fn check(device: &Device, is_used: &Use) -> Finding {
    let fault = |text: String| Finding::new(Level::of_fault(is_used.vsock), "device", text);
    match device {
        Device::Open => Finding::ok("device", format!("{PATH} is there")),
        Device::Closed => Finding::warn(
            "device",
            format!("{PATH} is for root alone, so that the services do not learn the CID"),
        )
        .run(format!("chmod a+r {PATH}")),
        Device::Missing(None) => {
            fault(format!("{PATH} is missing: the module vsock is not loaded"))
                .run("modprobe vsock")
        }
        Device::Missing(Some(numbers)) => {
            fault(format!("{PATH} is missing, though the kernel has it"))
                .run(format!("mknod -m 666 {PATH} c {numbers}"))
        }
        Device::Broken(error) => {
            fault(format!("{PATH} cannot be opened: {error}")).run("modprobe vsock")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefix::tests::{USED, expect};
    use super::*;

    #[test]
    fn a_device_that_can_be_opened_is_well() {
        expect(&check(&Device::Open, &USED), "device", Level::Ok, "");
    }

    #[test]
    fn a_device_that_is_missing_or_broken_fails_what_is_in_use() {
        for (device, command) in [
            (Device::Missing(None), "modprobe vsock"),
            (
                Device::Missing(Some("10 258".into())),
                "mknod -m 666 /dev/vsock c 10 258",
            ),
            (Device::Broken(io::Error::other("x")), "modprobe vsock"),
        ] {
            expect(&check(&device, &USED), "device", Level::Fail, command);
            expect(
                &check(&device, &Use::NOTHING),
                "device",
                Level::Warn,
                command,
            );
        }
    }

    #[test]
    fn a_device_for_root_alone_is_a_warning() {
        let command = "chmod a+r /dev/vsock";
        expect(
            &check(&Device::Closed, &USED),
            "device",
            Level::Warn,
            command,
        );
    }
}
