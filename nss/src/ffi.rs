//! The functions that glibc calls (glibc manual, "NSS Modules Interface"); the one file of the module with `unsafe`.
//!
//! Each reads what it was given, asks [`lookup`] and lays the answer into the caller's buffer. Others that a module may
//! have are left out: gethostbyname_r asks for IPv4, which no machine of ours has, and nobody lists all machines.
#![allow(
    unsafe_code,
    reason = "the only file that may; every block says why it is sound"
)]

use std::ffi::CStr;
use std::mem::{align_of, size_of_val};
use std::net::Ipv6Addr;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::ptr::{self, null_mut};
use std::sync::Once;

use libc::{AF_INET6, c_char, c_int, c_void, hostent, size_t, socklen_t};
use vsock_bridge_values::unusable::Unusable;

use crate::lookup::{self, Host};

/// enum nss_status (nss.h).
const TRY_AGAIN: c_int = -2;
const UNAVAILABLE: c_int = -1;
const NOT_FOUND: c_int = 0;
const SUCCESS: c_int = 1;

/// Values of h_errno (netdb.h).
const NETDB_INTERNAL: c_int = -1;
const NETDB_SUCCESS: c_int = 0;
const HOST_NOT_FOUND: c_int = 1;
const NO_RECOVERY: c_int = 3;

/// struct gaih_addrtuple (nss.h): an address for getaddrinfo(3).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AddressTuple {
    next: *mut AddressTuple,
    name: *mut c_char,
    family: c_int,
    /// The bytes of what is `uint32_t addr[4]` there.
    address: [u8; 16],
    scope_id: u32,
}

/// Returns the address of a machine for getaddrinfo(3) with AF_INET6, and for gethostbyname3_r.
///
/// # Safety
///
/// `name` is a C string; `result`, `errnop` and `h_errnop` can be written, so can `length` bytes at `buffer`, and `ttlp`
/// and `canonp` unless they are null.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _nss_vsock_gethostbyname3_r(
    name: *const c_char,
    family: c_int,
    result: *mut hostent,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
    h_errnop: *mut c_int,
    ttlp: *mut i32,
    canonp: *mut *mut c_char,
) -> c_int {
    // SAFETY: all of it is promised by the caller.
    unsafe {
        let find = || match family {
            AF_INET6 => by_name(name),
            _ => Ok(None),
        };
        let answer = find_and_lay_out(find, Buffer::new(buffer, length), host_entry);
        report(answer, errnop, h_errnop, |entry| {
            *result = entry;
            if !ttlp.is_null() {
                *ttlp = 0;
            }
            if !canonp.is_null() {
                *canonp = entry.h_name;
            }
        })
    }
}

/// Returns the address of a machine for gethostbyname2(3).
///
/// # Safety
///
/// As for [`_nss_vsock_gethostbyname3_r`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _nss_vsock_gethostbyname2_r(
    name: *const c_char,
    family: c_int,
    result: *mut hostent,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
    h_errnop: *mut c_int,
) -> c_int {
    // SAFETY: the caller promises the same; null is allowed for the last two.
    unsafe {
        _nss_vsock_gethostbyname3_r(
            name,
            family,
            result,
            buffer,
            length,
            errnop,
            h_errnop,
            null_mut(),
            null_mut(),
        )
    }
}

/// Returns the address of a machine for getaddrinfo(3) with AF_UNSPEC.
///
/// # Safety
///
/// `name` is a C string; `tuples`, `errnop` and `h_errnop` can be written, so can what `*tuples` points to unless it is
/// null, `length` bytes at `buffer`, and `ttlp` unless it is null.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _nss_vsock_gethostbyname4_r(
    name: *const c_char,
    tuples: *mut *mut AddressTuple,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
    h_errnop: *mut c_int,
    ttlp: *mut i32,
) -> c_int {
    // SAFETY: all of it is promised by the caller.
    unsafe {
        let answer = find_and_lay_out(|| by_name(name), Buffer::new(buffer, length), address_tuple);
        report(answer, errnop, h_errnop, |tuple| {
            // The caller may have a place for the first tuple already.
            match (*tuples).is_null() {
                true => *tuples = tuple,
                false => **tuples = *tuple,
            }
            if !ttlp.is_null() {
                *ttlp = 0;
            }
        })
    }
}

/// Returns the names of a machine for getnameinfo(3) and gethostbyaddr(3).
///
/// # Safety
///
/// `length_of_address` bytes at `address` can be read; `result`, `errnop` and `h_errnop` can be written, so can `length`
/// bytes at `buffer`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _nss_vsock_gethostbyaddr_r(
    address: *const c_void,
    length_of_address: socklen_t,
    family: c_int,
    result: *mut hostent,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
    h_errnop: *mut c_int,
) -> c_int {
    // SAFETY: all of it is promised by the caller; arrays of bytes have no alignment.
    unsafe {
        let find = || match (family, length_of_address) {
            (AF_INET6, 16) => lookup::by_address(Ipv6Addr::from(*address.cast::<[u8; 16]>())),
            _ => Ok(None),
        };
        let answer = find_and_lay_out(find, Buffer::new(buffer, length), host_entry);
        report(answer, errnop, h_errnop, |entry| *result = entry)
    }
}

/// # Safety
///
/// `name` is a C string.
unsafe fn by_name(name: *const c_char) -> Result<Option<Host>, Unusable> {
    // SAFETY: the caller promises it.
    match unsafe { CStr::from_ptr(name) }.to_str() {
        Ok(name) => lookup::by_name(name),
        // No name of ours has such bytes.
        Err(_) => Ok(None),
    }
}

/// Returns the laid-out answer, or the status that says why there is none. A panic stays here, without a word.
fn find_and_lay_out<T>(
    find: impl FnOnce() -> Result<Option<Host>, Unusable>,
    mut buffer: Buffer,
    lay_out: impl FnOnce(&Host, &mut Buffer) -> Option<T>,
) -> Result<T, c_int> {
    static SILENCE: Once = Once::new();
    // A failed test has to say why.
    if cfg!(not(test)) {
        SILENCE.call_once(|| panic::set_hook(Box::new(|_| ())));
    }
    let answer = catch_unwind(AssertUnwindSafe(|| match find() {
        Ok(Some(host)) => lay_out(&host, &mut buffer).ok_or(TRY_AGAIN),
        Ok(None) => Err(NOT_FOUND),
        Err(_) => Err(UNAVAILABLE),
    }));
    answer.unwrap_or(Err(UNAVAILABLE))
}

/// Hands the answer over and gives the status, with the errors that belong to it.
///
/// # Safety
///
/// Both pointers can be written.
unsafe fn report<T>(
    answer: Result<T, c_int>,
    errnop: *mut c_int,
    h_errnop: *mut c_int,
    hand_over: impl FnOnce(T),
) -> c_int {
    let (status, errno, h_errno) = match answer {
        Ok(answer) => {
            hand_over(answer);
            (SUCCESS, 0, NETDB_SUCCESS)
        }
        // Only these two together make glibc come back with a larger buffer.
        Err(TRY_AGAIN) => (TRY_AGAIN, libc::ERANGE, NETDB_INTERNAL),
        Err(NOT_FOUND) => (NOT_FOUND, libc::ENOENT, HOST_NOT_FOUND),
        Err(status) => (status, libc::ENOENT, NO_RECOVERY),
    };
    // SAFETY: the caller promises it.
    unsafe {
        *errnop = errno;
        *h_errnop = h_errno;
    }
    status
}

fn host_entry(host: &Host, buffer: &mut Buffer) -> Option<hostent> {
    let names = host.names.iter().map(|name| buffer.put_text(name));
    let names: Vec<*mut c_char> = names.collect::<Option<_>>()?;
    let (&name, aliases) = names.split_first()?;
    let address = buffer.put(&host.address.octets())?;
    Some(hostent {
        h_name: name,
        h_aliases: buffer.put(&[aliases, &[null_mut()]].concat())?,
        h_addrtype: AF_INET6,
        h_length: 16,
        h_addr_list: buffer.put(&[address.cast(), null_mut()])?,
    })
}

fn address_tuple(host: &Host, buffer: &mut Buffer) -> Option<*mut AddressTuple> {
    let name = buffer.put_text(host.names.first()?)?;
    buffer.put(&[AddressTuple {
        next: null_mut(),
        name,
        family: AF_INET6,
        address: host.address.octets(),
        scope_id: 0,
    }])
}

/// What is left of the caller's buffer.
struct Buffer {
    next: *mut u8,
    left: usize,
}

impl Buffer {
    /// # Safety
    ///
    /// `length` bytes at `start` can be written as long as this lives.
    unsafe fn new(start: *mut c_char, length: size_t) -> Buffer {
        Buffer {
            next: start.cast(),
            left: length,
        }
    }

    /// Copies values into the buffer, aligned as they have to be; gives none if there is no room.
    fn put<T: Copy>(&mut self, values: &[T]) -> Option<*mut T> {
        let gap = self.next.align_offset(align_of::<T>());
        let size = size_of_val(values).checked_add(gap)?;
        self.left = self.left.checked_sub(size)?;
        // SAFETY: `size` bytes from `next` on are in the buffer, and whoever made it vouches for that.
        unsafe {
            let place = self.next.add(gap).cast::<T>();
            ptr::copy_nonoverlapping(values.as_ptr(), place, values.len());
            self.next = self.next.add(size);
            Some(place)
        }
    }

    fn put_text(&mut self, text: &str) -> Option<*mut c_char> {
        let bytes = [text.as_bytes(), &[0]].concat();
        self.put(&bytes).map(|place| place.cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            address: "fd00::3".parse().unwrap(),
            names: ["web.vsock", "3.vsock"].map(str::to_owned).to_vec(),
        }
    }

    /// Reads a C string that a test has laid out.
    fn text(place: *const c_char) -> String {
        // SAFETY: the buffer that it points into lives, and put_text ended the text.
        unsafe { CStr::from_ptr(place) }
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn an_answer_fits_or_is_none_whatever_the_size_and_place_of_the_buffer() {
        let mut memory = [0_u64; 32];
        let mut fits = 0;
        for offset in 0..8 {
            for length in 0..200 {
                // SAFETY: offset and length stay below the 256 bytes.
                let mut buffer = unsafe {
                    Buffer::new(memory.as_mut_ptr().cast::<c_char>().add(offset), length)
                };
                let Some(entry) = host_entry(&host(), &mut buffer) else {
                    continue;
                };
                fits += 1;
                // SAFETY: both lists were laid out with these members.
                let (alias, end, address) = unsafe {
                    let [alias, end] = *entry.h_aliases.cast::<[*mut c_char; 2]>();
                    (alias, end, *(*entry.h_addr_list).cast::<[u8; 16]>())
                };
                assert_eq!(
                    (text(entry.h_name), text(alias)),
                    ("web.vsock".into(), "3.vsock".into())
                );
                assert!(end.is_null());
                assert_eq!(address, host().address.octets());
                assert!(entry.h_addr_list.is_aligned() && entry.h_aliases.is_aligned());
            }
        }
        // 18 bytes of names, 16 of the address, 32 of pointers, and at most 7 to align them.
        assert!((8 * 127..8 * 134).contains(&fits), "{fits}");
    }

    #[test]
    fn a_panic_becomes_a_status() {
        let mut memory = [0; 8];
        // SAFETY: the memory outlives the buffer.
        let buffer = unsafe { Buffer::new(memory.as_mut_ptr(), memory.len()) };
        let answer = find_and_lay_out(|| panic!("as a test"), buffer, host_entry);
        assert_eq!(answer.err(), Some(UNAVAILABLE));
    }
}
