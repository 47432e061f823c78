//! Which CIDs are this machine's own, asked of the kernel without /dev/vsock, which a bridge may not open.

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

/// The modules through which a guest reaches its host.
pub const GUEST_TRANSPORTS: [&str; 3] = [
    "vmw_vsock_virtio_transport",
    "vmw_vsock_vmci_transport",
    "hv_sock",
];

/// Tells whether a connection to the CID comes back to this machine.
pub fn stays_here(cid: Cid) -> bool {
    // Without a way to a host, loopback answers for it.
    let is_own_host = || is_own(Cid::LOCAL) && !has_guest_transport();
    cid == Cid::LOCAL || is_own(cid) || cid == Cid::HOST && is_own_host()
}

/// Tells whether a connected stream has left for the host of this machine, although this one is a host, too, and its
/// VMs are what CIDs above 2 mean here. Linux 7.1 does so where no VM has the CID (net.vsock.g2h_fallback).
pub fn has_strayed(stream: &Stream) -> bool {
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

/// Tells whether a socket can have the CID, which the kernel allows for the machine's own only.
fn is_own(cid: Cid) -> bool {
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

fn has_guest_transport() -> bool {
    let is_loaded = |name| Path::new("/sys/module").join(name).exists();
    GUEST_TRANSPORTS.into_iter().any(is_loaded)
}
