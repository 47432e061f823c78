//! How large the packets are that this machine sends over vsock.
//!
//! The kernel makes a packet of each write of up to 64 KiB. Linux takes one that does not fit into a block of eight pages
//! from several places in memory since 2025 (commit 6693731487a8, in stable kernels as well), and names each of them to
//! the device. VMMs that expect the header and one place drop such a packet without a word, and the connection stands
//! still for ever: vhost-device-vsock 0.3.0, Cloud Hypervisor (#7672) before February 2026, libkrun (#535). Nothing but
//! the size of a write decides the size of a packet.

use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use bytesize::ByteSize;
use log::Level;

use crate::error::Error;
use crate::vsock::Cid;

/// Fits into one place on every kernel. Of a block of eight pages of 4 KiB (PAGE_ALLOC_COSTLY_ORDER) the kernel keeps 44
/// bytes for the header and at most 768 for itself (skb_shared_info with MAX_SKB_FRAGS of 45), which leaves 31956. Seven
/// whole pages are below that, and splice(2) divides no page.
const SAFE_BYTES: usize = 28 << 10;
/// The kernel divides larger writes itself (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
const LARGEST_BYTES: u64 = 64 << 10;

/// VIRTIO_ID_VSOCK (include/uapi/linux/virtio_ids.h), as sysfs writes it.
const VIRTIO_VSOCK: &str = "0x0013";
/// VIRTIO_VSOCK_F_SEQPACKET (include/uapi/linux/virtio_vsock.h), the place of its bit.
const SEQPACKET: usize = 1;

/// The vsock device that this machine has, as a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    /// None on a virtio bus: a host, or a guest of another kind.
    None,
    /// The host's kernel (vhost_vsock of Linux 5.14 and later), which takes all packets.
    Kernel,
    /// A program: no other device is known to lack SOCK_SEQPACKET.
    Program,
    /// It cannot be seen, as in a container without /sys.
    Unknown,
}

impl Device {
    /// Looks below the root of a file system; of several devices the worst one counts.
    pub(crate) fn find(root: &Path) -> Device {
        let bus = root.join("sys/bus");
        let devices = match fs::read_dir(bus.join("virtio/devices")) {
            Ok(devices) => devices,
            Err(error) if error.kind() == io::ErrorKind::NotFound && bus.exists() => {
                return Device::None;
            }
            Err(_) => return Device::Unknown,
        };
        let found = devices.map(|entry| entry.map_or(Device::Unknown, |entry| kind(&entry.path())));
        found.max().unwrap_or(Device::None)
    }

    /// Returns whether large packets get through.
    fn takes_all(self) -> bool {
        matches!(self, Device::None | Device::Kernel)
    }
}

fn kind(device: &Path) -> Device {
    match fs::read_to_string(device.join("device")) {
        Ok(number) if number.trim_end() != VIRTIO_VSOCK => return Device::None,
        Ok(_) => {}
        Err(_) => return Device::Unknown,
    }
    match fs::read_to_string(device.join("features")) {
        Ok(bits) if bits.as_bytes().get(SEQPACKET) == Some(&b'1') => Device::Kernel,
        Ok(_) => Device::Program,
        Err(_) => Device::Unknown,
    }
}

/// The most that one write to vsock may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packets(usize);

impl Packets {
    /// As large as the kernel makes them.
    pub(crate) const UNLIMITED: Packets = Packets(usize::MAX);

    /// Chooses what that device takes.
    pub(crate) fn for_device(device: Device) -> Packets {
        match device.takes_all() {
            true => Packets::UNLIMITED,
            false => Packets(SAFE_BYTES),
        }
    }

    /// Returns the limit in bytes towards that machine; this machine itself needs none, as nothing goes through the device.
    pub(crate) fn bytes_towards(self, cid: Option<Cid>) -> usize {
        match cid {
            Some(Cid::LOCAL) => usize::MAX,
            _ => self.0,
        }
    }

    /// Returns the limit in bytes, if there is one.
    pub(crate) fn limit_bytes(self) -> Option<usize> {
        (self != Packets::UNLIMITED).then_some(self.0)
    }
}

/// `--vsock-packet` as written: `auto`, `infinity` or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PacketArgument(Option<Packets>);

impl PacketArgument {
    /// Returns what was asked for, else what the device of this machine takes; a limit is logged at that level.
    pub(crate) fn resolve(self, root: &Path, level: Level) -> Packets {
        if let PacketArgument(Some(packets)) = self {
            return packets;
        }
        let device = Device::find(root);
        let packets = Packets::for_device(device);
        if let Some(bytes) = packets.limit_bytes() {
            let cause = match device {
                Device::Unknown => "the device of vsock cannot be seen in /sys",
                _ => "the vsock device of this VM is not the kernel of its host",
            };
            let kib = bytes >> 10;
            log::log!(
                level,
                "{cause}: packets into vsock have at most {kib} KiB; see --vsock-packet in vsock-bridge(8)"
            );
        }
        packets
    }
}

impl FromStr for PacketArgument {
    type Err = Error;

    fn from_str(text: &str) -> Result<PacketArgument, Error> {
        let size = || text.parse::<ByteSize>().ok().map(|size| size.as_u64());
        match text {
            "auto" => Ok(PacketArgument(None)),
            "infinity" => Ok(PacketArgument(Some(Packets::UNLIMITED))),
            _ => size()
                .filter(|bytes| (1024..=LARGEST_BYTES).contains(bytes))
                .map(|bytes| PacketArgument(Some(Packets(bytes as usize))))
                .ok_or_else(|| {
                    let hint = "expected auto, infinity, or 1KiB to 64KiB";
                    Error::invalid("packet size", text, hint)
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: (&str, &str) = ("0x0001", "1111111100000000");

    /// A /sys whose virtio bus has devices with these numbers and features; no features: they cannot be read.
    fn found(devices: &[(&str, &str)]) -> Device {
        let root = tempfile::tempdir().unwrap();
        for (index, (number, features)) in devices.iter().enumerate() {
            let device = root
                .path()
                .join(format!("sys/bus/virtio/devices/virtio{index}"));
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("device"), format!("{number}\n")).unwrap();
            if !features.is_empty() {
                fs::write(device.join("features"), format!("{features}\n")).unwrap();
            }
        }
        Device::find(root.path())
    }

    #[test]
    fn the_device_is_the_kernels_when_it_has_sequenced_packets() {
        let of_kernel = (VIRTIO_VSOCK, "0100000000000000000000000000111010000000");
        let of_program = (VIRTIO_VSOCK, "0000000000000000000000000000110010000000");
        assert_eq!(found(&[NET, of_kernel]), Device::Kernel);
        assert_eq!(found(&[NET, of_program, NET]), Device::Program);
        assert_eq!(found(&[of_program, of_kernel]), Device::Program);
        assert_eq!(found(&[(VIRTIO_VSOCK, "0")]), Device::Program);
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_another_device_is_none() {
        assert_eq!(found(&[NET]), Device::None);
        assert_eq!(found(&[NET, (VIRTIO_VSOCK, "")]), Device::Unknown);
        assert_eq!(found(&[("0x0013x", "")]), Device::None);
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Device::find(root.path()), Device::Unknown);
        fs::create_dir_all(root.path().join("sys/bus/pci")).unwrap();
        assert_eq!(Device::find(root.path()), Device::None);
        fs::create_dir_all(root.path().join("sys/bus/virtio/devices/virtio0")).unwrap();
        assert_eq!(Device::find(root.path()), Device::Unknown);
    }

    #[test]
    fn packets_are_small_where_the_device_is_no_kernel_and_not_towards_this_machine() {
        for device in [Device::None, Device::Kernel] {
            assert_eq!(Packets::for_device(device), Packets::UNLIMITED);
        }
        for device in [Device::Program, Device::Unknown] {
            let packets = Packets::for_device(device);
            assert_eq!(packets.limit_bytes(), Some(SAFE_BYTES));
            assert_eq!(packets.bytes_towards(Some(Cid::HOST)), SAFE_BYTES);
            assert_eq!(packets.bytes_towards(None), SAFE_BYTES);
            assert_eq!(packets.bytes_towards(Some(Cid::LOCAL)), usize::MAX);
        }
    }

    #[test]
    fn a_size_that_was_asked_for_holds_whatever_the_device() {
        let limit = |text: &str| {
            let argument: PacketArgument = text.parse().unwrap();
            argument
                .resolve(Path::new("/nowhere"), Level::Debug)
                .limit_bytes()
        };
        assert_eq!(limit("infinity"), None);
        assert_eq!(limit("16KiB"), Some(16 << 10));
        assert_eq!(limit("65536"), Some(65536));
        assert_eq!(limit("auto"), Some(SAFE_BYTES));
        for text in ["", "0", "1000", "65KiB", "1MiB", "-1", "Auto", "unlimited"] {
            assert!(text.parse::<PacketArgument>().is_err(), "{text:?}");
        }
    }
}
