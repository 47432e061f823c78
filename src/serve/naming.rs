//! What a bridge makes of names of machines while those come and go: who may come in, and where connections go.
//!
//! A connection is judged when it comes, and its target is looked up until it is reached. What is established stays, as
//! behind a firewall or sshd: whose name is given to another machine was let in by its own.

use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::Epoll;

use crate::allow_list::{AllowList, AllowedCids};
use crate::clock::Moment;
use crate::connect::circle::Place;
use crate::connect::{Dialer, Target, Targets};
use crate::known::Known;
use crate::logging::rate_limit::RateLimit;
use crate::names::GivenNames;
use crate::registry_watch::RegistryWatch;
use crate::relay::token::Token;

/// Lines of changes in 5 seconds.
const BURST: u32 = 20;

/// The names that a bridge was told, and what is known of them.
#[derive(Debug)]
pub(crate) struct Naming {
    watch: RegistryWatch,
    /// Those of the administrator, which stay.
    given: GivenNames,
    allowed: AllowList,
    /// Where peers come to, which no target may lead back to.
    places: Vec<Place>,
    /// Each name that may change, with its machine as it was logged.
    told: Vec<(String, Option<String>)>,
    lines: RateLimit,
}

/// What has changed.
#[derive(Debug)]
pub(crate) struct Renamed {
    /// Who may come in.
    pub allowed: Option<AllowedCids>,
    /// How targets are reached, if one is another place.
    pub dialer: Option<Arc<Dialer>>,
}

impl Naming {
    /// Begins with a folder of the registry, if any name that the bridge needs may be in it.
    pub(crate) fn new(
        registry: &Path,
        given: GivenNames,
        allowed: AllowList,
        targets: &Targets,
        places: Vec<Place>,
    ) -> Option<Naming> {
        let lasting = Known::now(Some(&given)).lasting();
        // One that cannot be looked up there was told at the start, and does not change.
        let is_given = |name: &str| {
            !(lasting.administrators()).is_ok_and(|names| names.location(name).is_none())
        };
        let mut used: Vec<String> = allowed
            .names()
            .chain(targets.names())
            .filter(|name| !is_given(name))
            .map(str::to_owned)
            .collect();
        used.sort_unstable();
        used.dedup();
        // Rules of a gateway may have other names at any time.
        if used.is_empty() && !targets.iter().any(Target::is_gateway) {
            return None;
        }
        let watch = RegistryWatch::new(registry, Moment::now());
        let mut naming = Naming {
            watch,
            given,
            allowed,
            places,
            told: used.into_iter().map(|name| (name, None)).collect(),
            lines: RateLimit::new(BURST),
        };
        naming.compare(|_, _| {});
        Some(naming)
    }

    pub(crate) fn watch(&self, epoll: &Epoll) -> Result<(), Errno> {
        self.watch.watch(epoll, Token::Registry.pack())
    }

    /// Learns that files of the registry have changed.
    pub(crate) fn note(&mut self, now: Moment) {
        self.watch.note(now);
    }

    /// Returns when [`Naming::renew`] must be called.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.watch.deadline()
    }

    /// Reads what has changed, if that is due, and looks all names up again.
    pub(crate) fn renew(&mut self, epoll: &Epoll, dialer: &Dialer, now: Moment) -> Option<Renamed> {
        if !self.watch.renew(epoll, Token::Registry.pack(), now) {
            return None;
        }
        Some(self.look_up(dialer, now))
    }

    /// Reads what has changed by now, and looks all names up again: who comes next has the name that it has now.
    pub(crate) fn renew_at_once(
        &mut self,
        epoll: &Epoll,
        dialer: &Dialer,
        now: Moment,
    ) -> Option<Renamed> {
        let token = Token::Registry.pack();
        (self.watch.renew_at_once(epoll, token, now)).then(|| self.look_up(dialer, now))
    }

    /// Looks all names up in what was read.
    pub(crate) fn look_up(&mut self, dialer: &Dialer, now: Moment) -> Renamed {
        let mut changes = Vec::new();
        self.compare(|name, location| changes.push((name.to_owned(), location.clone())));
        for (name, location) in changes {
            self.tell(&name, location.as_deref(), now);
        }
        let known = Known::with(Some(&self.given), self.watch.registry());
        // Whatever else is wrong with a list was told at the start.
        let allowed = self.allowed.resolve_present(&known).ok();
        let check = |target: &Target| target.check_circle(&self.places, dialer.prefix);
        let targets = dialer.targets.renamed(&known, check);
        Renamed {
            allowed: allowed.map(|(allowed, _)| allowed),
            dialer: targets.map(|targets| Arc::new(dialer.with_targets(targets))),
        }
    }

    /// Remembers where each name is now; what has changed is given to `tell`.
    fn compare(&mut self, mut tell: impl FnMut(&str, &Option<String>)) {
        for (name, told) in &mut self.told {
            let location = self.watch.registry().location(name);
            let location = location.map(ToString::to_string);
            if *told != location {
                *told = location;
                tell(name, told);
            }
        }
    }

    fn tell(&mut self, name: &str, location: Option<&str>, now: Moment) {
        let Some(left_out) = self.lines.admit(now) else {
            return;
        };
        let left_out = match left_out {
            0 => String::new(),
            count => format!(" ({count} such lines left out)"),
        };
        match location {
            Some(location) => log::info!("{name} is {location} from now on{left_out}"),
            None => log::info!("{name} is no machine any more{left_out}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use nix::sys::epoll::EpollCreateFlags;

    use super::*;
    use crate::vsock::Cid;

    /// A CID that was given to another machine lets nobody in by the name that it had.
    #[test]
    fn who_may_come_in_is_who_has_the_name_now() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(folder.path().join("a.conf"), text).unwrap();
        write("web=3\n");
        let dialer = Dialer::to_nobody();
        let list: AllowList = "web,db,100-200".parse().unwrap();
        let given: GivenNames = "db=4".parse().unwrap();
        let naming = Naming::new(folder.path(), given, list, &dialer.targets, Vec::new());
        let mut naming = naming.unwrap();
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        naming.watch(&epoll).unwrap();
        let mut expect = |text: &str, allowed: &[u32]| {
            write(text);
            naming.note(Moment::now());
            let due = naming.deadline().unwrap() + Duration::from_millis(1);
            let renamed = naming.renew(&epoll, &dialer, due).unwrap();
            assert!(renamed.dialer.is_none());
            let now = renamed.allowed.unwrap();
            for number in [3, 4, 5, 6, 150] {
                let is_in = now.contains(Cid::new(number).unwrap());
                assert_eq!(is_in, allowed.contains(&number), "{text:?}: {number}");
            }
        };
        expect("web=5\n", &[4, 5, 150]);
        expect("other=5\n", &[4, 150]);
        expect("web=/run/web/guest.vsock\n", &[4, 150]);
        expect("other=3\nweb=6\ndb=5\n", &[4, 6, 150]);
        expect("", &[4, 150]);
    }

    #[test]
    fn nothing_is_watched_where_no_name_can_change() {
        let folder = tempfile::tempdir().unwrap();
        let dialer = Dialer::to_nobody();
        for (list, is_watched) in [("any", false), ("3,db,local", false), ("any,web", true)] {
            let given: GivenNames = "db=4".parse().unwrap();
            let list: AllowList = list.parse().unwrap();
            let naming = Naming::new(folder.path(), given, list, &dialer.targets, Vec::new());
            assert_eq!(naming.is_some(), is_watched);
        }
    }
}
