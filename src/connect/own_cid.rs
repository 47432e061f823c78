//! Which CIDs are this machine's own, asked of the kernel without /dev/vsock, which a bridge may not open.

use std::fs::{self, DirEntry};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, VsockAddr};

use crate::stream::Stream;
use crate::sys;
use crate::vsock::Cid;

/// VMADDR_FLAG_TO_HOST (include/uapi/linux/vm_sockets.h): a connection to a CID above 2 went to the host of this machine.
const FLAG_TO_HOST: u8 = 1;

/// Returns whether a connection to the CID comes back to this machine.
pub(super) fn stays_here(cid: Cid) -> bool {
    // Without a way to a host, loopback answers for it.
    let is_own_host = || is_own(Cid::LOCAL) && !has_guest_transport(Path::new("/sys"));
    cid == Cid::LOCAL || is_own(cid) || cid == Cid::HOST && is_own_host()
}

/// Returns whether a connected stream has left for the host of this machine, although this one is a host, too, and its
/// VMs are what CIDs above 2 mean here. Linux 7.1 does so where no VM has the CID (net.vsock.g2h_fallback).
pub(super) fn has_strayed(stream: &Stream) -> bool {
    has_flag(stream) && is_own(Cid::HOST)
}

fn has_flag(stream: &Stream) -> bool {
    let address = sys::peer_address(stream.input());
    let Ok(Some(address)) = address.as_ref().map(|address| address.as_vsock_addr()) else {
        return false;
    };
    // The kernel's svm_flags, which libc has as the first of the bytes that are zero.
    let address: &libc::sockaddr_vm = address.as_ref();
    address.svm_zero[0] & FLAG_TO_HOST != 0
}

/// Returns whether a socket can have the CID, which the kernel allows for the machine's own only.
pub(crate) fn is_own(cid: Cid) -> bool {
    let bind = || {
        let socket = sys::stream_socket(AddressFamily::Vsock)?;
        let address = VsockAddr::new(cid.number(), libc::VMADDR_PORT_ANY);
        sys::bind(socket.as_fd(), &address)
    };
    bind()
        .inspect_err(|errno: &Errno| {
            log::trace!("CID {cid} is another machine's: {}", errno.desc())
        })
        .is_ok()
}

/// Looks for a device, in what is /sys. Modules alone say little: Linux loads that of VMCI for the first vsock socket of
/// any machine.
fn has_guest_transport(sys: &Path) -> bool {
    // Beside its files, the folder of a driver has a link to each device that it serves.
    let is_device = |entry: DirEntry| entry.path().join("modalias").exists();
    let has_device = |driver: &str| {
        let entries = fs::read_dir(sys.join("bus").join(driver));
        entries.is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_device)))
    };
    has_device("virtio/drivers/vmw_vsock_virtio_transport")
        || has_device("pci/drivers/vmw_vmci")
        // Loads on Hyper-V alone.
        || sys.join("module/hv_sock").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_a_way_to_the_host_only_with_a_device() {
        for (files, is_way) in [
            (&[][..], false),
            (&["module/vmw_vsock_vmci_transport/x"], false),
            (&["bus/pci/drivers/vmw_vmci/bind"], false),
            (
                &["bus/virtio/drivers/vmw_vsock_virtio_transport/bind"],
                false,
            ),
            (
                &["bus/virtio/drivers/vmw_vsock_virtio_transport/virtio3/modalias"],
                true,
            ),
            (&["bus/pci/drivers/vmw_vmci/0000:00:07.7/modalias"], true),
            (&["module/hv_sock/x"], true),
        ] {
            let sys = tempfile::tempdir().unwrap();
            for file in files {
                let path = sys.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            assert_eq!(has_guest_transport(sys.path()), is_way, "{files:?}");
        }
    }
}
