//! The addresses of a target's name, looked up again when none of them can be reached.
//!
//! In a thread, since a resolver may take its time; one at a time, and seldom. What has been found serves until then.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::address::{Address, Source};
use super::circle::{self, Place};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::prefix::Prefix;

/// A name is looked up at most this often.
const INTERVAL: Duration = Duration::from_secs(5);

/// What became of a name since the start.
#[derive(Debug, Default)]
pub(super) struct Renewal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Other addresses than at the start.
    addresses: Option<Arc<[Address]>>,
    is_asking: bool,
    asked: Option<Moment>,
    /// What new addresses must not lead back to.
    places: Vec<Place>,
    prefix: Option<Prefix>,
}

impl Renewal {
    /// Returns the addresses if they are others than at the start.
    pub(super) fn addresses(&self) -> Option<Arc<[Address]>> {
        self.lock().addresses.clone()
    }

    /// Keeps in mind where peers come from, for addresses that are found later.
    pub(super) fn remember(&self, places: &[Place], prefix: Option<Prefix>) {
        let mut state = self.lock();
        state.places = places.to_vec();
        state.prefix = prefix;
    }

    /// Begins to look a name up that led to those addresses at the start, unless that is going on or was done a moment ago.
    pub(super) fn look_up(
        self: &Arc<Renewal>,
        endpoint: &Endpoint,
        first: &[Address],
        source: Source,
        now: Moment,
    ) {
        if !self.lock().begin(now) {
            return;
        }
        let (renewal, endpoint, first) = (self.clone(), endpoint.clone(), first.to_vec());
        let body = move || {
            let found = look_up(&endpoint);
            renewal.finish(&endpoint, &first, source, found);
        };
        let spawned = thread::Builder::new().name("resolver".into()).spawn(body);
        if let Err(error) = spawned {
            log::debug!("cannot look a name up again: {error}");
            self.lock().is_asking = false;
        }
    }

    fn finish(
        &self,
        endpoint: &Endpoint,
        first: &[Address],
        source: Source,
        found: std::io::Result<Vec<SocketAddr>>,
    ) {
        let mut state = self.lock();
        state.is_asking = false;
        let found = match found {
            Ok(found) => found.into_iter().map(Address::Tcp),
            Err(error) => return log::debug!("cannot look {endpoint} up again: {error}"),
        };
        let found: Vec<Address> = found.filter(|address| source.fits(address)).collect();
        let before = state.addresses.as_deref().unwrap_or(first);
        if found.is_empty() || is_same(before, &found) {
            return;
        }
        if let Err(error) = circle::check(endpoint, &found, &state.places, state.prefix) {
            return log::warn!("the new address is not used: {}", error.report());
        }
        log::info!(
            "{endpoint} has moved from {} to {}",
            list(before),
            list(&found)
        );
        state.addresses = Some(found.into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left nothing half done in it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, now: Moment) -> bool {
        let is_due = self.asked.is_none_or(|asked| now - asked >= INTERVAL);
        if self.is_asking || !is_due {
            return false;
        }
        self.is_asking = true;
        self.asked = Some(now);
        true
    }
}

/// Asks the resolver, which may block.
fn look_up(endpoint: &Endpoint) -> std::io::Result<Vec<SocketAddr>> {
    match endpoint {
        Endpoint::TcpName { name, port } => Ok((name.as_str(), *port).to_socket_addrs()?.collect()),
        _ => Ok(Vec::new()),
    }
}

/// Many servers of names give theirs in another order each time.
fn is_same(before: &[Address], found: &[Address]) -> bool {
    let has_all = |these: &[Address], those: &[Address]| these.iter().all(|a| those.contains(a));
    has_all(before, found) && has_all(found, before)
}

fn list(addresses: &[Address]) -> String {
    let texts: Vec<String> = addresses
        .iter()
        .map(|address| address.endpoint().to_string())
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<Address> {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        text.split(' ').map(tcp).collect()
    }

    #[test]
    fn a_name_is_looked_up_once_at_a_time_and_not_again_for_five_seconds() {
        let at = |seconds: u64| Moment::from_nanoseconds(seconds * 1_000_000_000);
        let mut state = State::default();
        assert!(state.begin(at(10)));
        assert!(!state.begin(at(20)));
        state.is_asking = false;
        assert!(state.begin(at(20)));
        state.is_asking = false;
        assert!(!state.begin(at(24)));
        assert!(state.begin(at(25)));
    }

    #[test]
    fn the_same_addresses_in_another_order_are_no_news() {
        let before = addresses("192.0.2.1:22 192.0.2.2:22");
        assert!(is_same(&before, &addresses("192.0.2.2:22 192.0.2.1:22")));
        assert!(!is_same(&before, &addresses("192.0.2.2:22")));
        assert!(!is_same(&before, &addresses("192.0.2.1:22 192.0.2.3:22")));
    }
}
