//! libnss_vsock.so.2: lets every program of glibc resolve `3.vsock`, `host.vsock`, given names, and their addresses.
//!
//! glibc loads it into each process that resolves names (nss(5)), those of other users included. So it opens nothing but
//! our configuration, reads no environment, keeps no state, logs nothing, starts no thread, and no panic leaves it.
#![warn(unreachable_pub)]

#[cfg(all(panic = "abort", not(test)))]
compile_error!("a panic must not end the process that resolves a name: build with `--profile nss`");

mod ffi;
mod lookup;
mod machine_id;
