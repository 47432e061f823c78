//! The way to other machines, and the CID of this one: as a guest, as a host, or to itself alone.

use std::fs;
use std::path::Path;

use super::device::{self, Device};
use super::finding::{Finding, Level};
use super::units::Use;
use crate::packets::{self, Packets};
use crate::route;
use crate::vsock::Cid;

/// The modules through which a guest reaches its host.
const GUEST_TRANSPORTS: [&str; 3] = [
    "vmw_vsock_virtio_transport",
    "vmw_vsock_vmci_transport",
    "hv_sock",
];

/// What this machine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The loaded transport of a guest.
    pub guest_transport: Option<&'static str>,
    /// The virtio vsock device, with or without its driver.
    pub virtio_device: packets::Device,
    /// The transport of a host is loaded.
    pub has_host_transport: bool,
    /// The transport of a host would be loaded for the first VM.
    pub can_be_host: bool,
    /// The transport of a machine to itself is loaded.
    pub has_loopback: bool,
    /// The CID, as far as it could be asked.
    pub cid: Option<Cid>,
    /// What no VM of this machine has goes to its host (net.vsock.g2h_fallback); none where Linux has no such setting.
    pub falls_back: Option<bool>,
}

/// Looks at /sys and /dev, and asks for the CID.
pub(super) fn gather() -> Facts {
    let has_module = |name: &str| Path::new("/sys/module").join(name).exists();
    Facts {
        guest_transport: GUEST_TRANSPORTS.into_iter().find(|name| has_module(name)),
        virtio_device: packets::Device::find(Path::new("/")),
        has_host_transport: has_module("vhost_vsock"),
        can_be_host: Path::new("/dev/vhost-vsock").exists(),
        has_loopback: has_module("vsock_loopback"),
        cid: route::own_cid(),
        falls_back: fs::read_to_string("/proc/sys/net/vsock/g2h_fallback")
            .ok()
            .map(|text| text.trim_end() != "0"),
    }
}

impl Facts {
    /// Returns whether a missing CID means that there is none, and not that this user could not ask.
    pub(super) fn knows_cid(&self, device: &Device) -> bool {
        self.cid.is_some() || matches!(device, Device::Open)
    }

    /// A transport that is built in shows as loaded without any device, so the CID says more.
    fn is_guest(&self, device: &Device) -> bool {
        match self.cid {
            Some(cid) => cid > Cid::HOST,
            None => !self.knows_cid(device) && self.guest_transport.is_some(),
        }
    }

    fn has_virtio_device(&self) -> bool {
        use packets::Device::{Kernel, Program};
        matches!(self.virtio_device, Kernel | Program)
    }

    /// Says how large the packets are that bridges send, where they do not leave that to the kernel.
    fn packets(&self) -> String {
        match Packets::for_device(self.virtio_device).limit_bytes() {
            Some(bytes) => format!(
                "; its device is not the kernel of a host: bridges send packets of at most {} KiB",
                bytes >> 10
            ),
            None => String::new(),
        }
    }

    fn is_host(&self) -> bool {
        self.has_host_transport || self.cid == Some(Cid::HOST)
    }
}

/// Checks that there is a way to where the bridges in use connect, or from where they are connected to.
pub(super) fn check(facts: &Facts, device: &Device, is_used: &Use) -> Finding {
    let ok = |text: String| Finding::ok("transport", text);
    let warn = |text: &str| Finding::warn("transport", text);
    let fault = |text: &str| Finding::new(Level::of_fault(is_used.vsock), "transport", text);
    if facts.is_guest(device) {
        let packets = facts.packets();
        return ok(match facts.guest_transport {
            Some(module) => format!("guest, with {module}{packets}"),
            None => format!("guest{packets}"),
        });
    }
    if facts.has_virtio_device() {
        return fault("this VM has a vsock device that no driver serves")
            .run("modprobe vmw_vsock_virtio_transport");
    }
    if is_used.to_host && facts.has_loopback {
        return warn(
            "vsock_loopback alone: what is for the host comes back here; give this VM a vsock device",
        );
    }
    if is_used.to_host {
        return fault(
            "no way to a host: give this VM a vsock device, e.g. -device vhost-vsock-pci,guest-cid=3",
        );
    }
    if facts.is_host() {
        return ok("host, with vhost_vsock".to_owned());
    }
    if facts.can_be_host {
        return ok("host; vhost_vsock comes with the first VM".to_owned());
    }
    if facts.has_loopback {
        return warn("vsock_loopback alone: no other machine is reached");
    }
    fault("none: a VM needs a vsock device, a host the module vhost_vsock")
        .run("modprobe vhost_vsock")
}

/// Tells of a guest that is a host as well that its numbers have two meanings.
pub(super) fn nested(facts: &Facts, device: &Device) -> Option<Finding> {
    if !facts.is_guest(device) || !facts.has_host_transport {
        return None;
    }
    let peers = "as a peer, a CID may be a VM of this machine or one beside it, which `--allow-cid` and P::CID do not \
                 tell apart";
    if facts.falls_back != Some(true) {
        let text = format!("this guest is a host, too: {peers}");
        return Some(Finding::ok("nested", text));
    }
    let text = format!(
        "this guest is a host, too, and a CID that no VM of it has is looked for at its own host: bridges and \
         vsock-connect refuse what they find there, other programs do not; {peers}"
    );
    Some(Finding::warn("nested", text).run("sysctl -w net.vsock.g2h_fallback=0"))
}

/// Tells the CID.
pub(super) fn cid(facts: &Facts, device: &Device) -> Finding {
    match facts.cid {
        Some(Cid::HOST) => Finding::ok("CID", "2, the host"),
        Some(Cid::LOCAL) => Finding::ok("CID", "1, which this machine alone reaches"),
        Some(cid) => Finding::ok("CID", format!("{cid}, a guest")),
        None if !facts.knows_cid(device) => Finding::warn(
            "CID",
            format!("cannot be asked of {}; see device", device::PATH),
        ),
        None if facts.can_be_host && !facts.has_virtio_device() => {
            Finding::ok("CID", "none until the first VM")
        }
        None => Finding::warn("CID", "none; see transport"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefix::tests::expect;
    use super::*;

    const USED: Use = Use {
        vsock: true,
        ..Use::NOTHING
    };
    const TO_HOST: Use = Use {
        to_host: true,
        ..USED
    };
    const NOTHING: Facts = Facts {
        guest_transport: None,
        virtio_device: packets::Device::None,
        has_host_transport: false,
        can_be_host: false,
        has_loopback: false,
        cid: None,
        falls_back: None,
    };
    const HOST: Facts = Facts {
        has_host_transport: true,
        can_be_host: true,
        cid: Some(Cid::HOST),
        ..NOTHING
    };

    fn guest() -> Facts {
        Facts {
            guest_transport: Some(GUEST_TRANSPORTS[0]),
            virtio_device: packets::Device::Kernel,
            cid: Cid::new(3),
            ..NOTHING
        }
    }

    fn look(facts: &Facts, is_used: &Use) -> [Finding; 2] {
        [
            check(facts, &Device::Open, is_used),
            cid(facts, &Device::Open),
        ]
    }

    #[test]
    fn good_guests_and_hosts_have_no_fault() {
        let before_first_vm = Facts {
            has_host_transport: false,
            cid: None,
            ..HOST
        };
        for (facts, is_used) in [(guest(), TO_HOST), (HOST, USED), (before_first_vm, USED)] {
            for finding in look(&facts, &is_used) {
                assert_eq!(finding.level, Level::Ok, "{finding:?}");
            }
        }
    }

    #[test]
    fn a_guest_of_a_program_is_told_how_large_its_packets_are() {
        use packets::Device::{Kernel, None, Program, Unknown};
        for (virtio_device, is_told) in [
            (None, false),
            (Kernel, false),
            (Program, true),
            (Unknown, true),
        ] {
            let facts = Facts {
                virtio_device,
                ..guest()
            };
            let [transport, _] = look(&facts, &TO_HOST);
            assert_eq!(transport.level, Level::Ok);
            let text = "packets of at most 28 KiB";
            assert_eq!(transport.text.contains(text), is_told, "{transport:?}");
        }
    }

    #[test]
    fn a_guest_without_its_driver_is_told_to_load_it() {
        let facts = Facts {
            guest_transport: None,
            cid: None,
            // udev makes the node wherever the module is installed.
            can_be_host: true,
            has_loopback: true,
            ..guest()
        };
        let [transport, cid] = look(&facts, &TO_HOST);
        let command = "modprobe vmw_vsock_virtio_transport";
        expect(&transport, "transport", Level::Fail, command);
        expect(&cid, "CID", Level::Warn, "");
    }

    #[test]
    fn a_machine_without_any_transport_fails_what_uses_one() {
        let command = "modprobe vhost_vsock";
        expect(&look(&NOTHING, &USED)[0], "transport", Level::Fail, command);
        let [transport, cid] = look(&NOTHING, &Use::NOTHING);
        expect(&transport, "transport", Level::Warn, command);
        expect(&cid, "CID", Level::Warn, "");
    }

    #[test]
    fn a_driver_without_a_device_is_no_transport() {
        let built_in = Facts {
            guest_transport: Some(GUEST_TRANSPORTS[0]),
            ..NOTHING
        };
        assert_eq!(look(&built_in, &USED)[0].level, Level::Fail);
    }

    #[test]
    fn a_bridge_to_the_host_needs_more_than_loopback_or_being_a_host() {
        let loopback = Facts {
            has_loopback: true,
            cid: Some(Cid::LOCAL),
            ..NOTHING
        };
        expect(&look(&loopback, &TO_HOST)[0], "transport", Level::Warn, "");
        expect(&look(&loopback, &USED)[0], "transport", Level::Warn, "");
        expect(&look(&HOST, &TO_HOST)[0], "transport", Level::Fail, "");
    }

    #[test]
    fn a_guest_that_is_a_host_is_told_where_its_cids_may_lead() {
        let both = |falls_back| Facts {
            has_host_transport: true,
            falls_back,
            ..guest()
        };
        let finding = |facts: &Facts| nested(facts, &Device::Open);
        let command = "sysctl -w net.vsock.g2h_fallback=0";
        let warning = finding(&both(Some(true))).unwrap();
        expect(&warning, "nested", Level::Warn, command);
        for falls_back in [None, Some(false)] {
            expect(
                &finding(&both(falls_back)).unwrap(),
                "nested",
                Level::Ok,
                "",
            );
        }
        assert_eq!(finding(&guest()), None);
        let host = Facts {
            falls_back: Some(true),
            ..HOST
        };
        assert_eq!(finding(&host), None);
    }

    #[test]
    fn a_cid_that_this_user_cannot_ask_for_is_a_warning() {
        let facts = Facts {
            cid: None,
            ..guest()
        };
        assert!(!facts.knows_cid(&Device::Closed));
        expect(&cid(&facts, &Device::Closed), "CID", Level::Warn, "");
        let transport = check(&facts, &Device::Closed, &TO_HOST);
        assert_eq!(transport.level, Level::Ok);
    }
}
