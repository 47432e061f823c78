//! Which target each connection is for: the same for all, or one for each machine and each port that peers come to.

use std::fmt;

use super::target::Target;
use super::via::Route;
use crate::allow_list::{AllowList, AllowedCids};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::known::Known;
use crate::peer::{Destination, Peer};
use crate::target_list::TargetList;
use crate::vsock::VsockPort;

/// All targets of a bridge, with their names resolved.
#[derive(Debug)]
pub(crate) struct Targets {
    /// The first that fits is taken.
    choices: Vec<Choice>,
    /// How other machines are reached.
    route: Route,
    /// What is printed.
    text: String,
}

#[derive(Clone, Debug)]
struct Choice {
    /// Those that it is for, as written and by their CIDs now; none: everybody.
    machines: Option<(AllowList, AllowedCids)>,
    /// The port that they come to; none: any.
    port: Option<u16>,
    /// The machine that the target is, by its name.
    name: Option<(String, VsockPort)>,
    target: Target,
}

/// Machines with the target for them, none: for everybody.
type Share<'a> = (Option<(&'a AllowList, AllowedCids)>, &'a Endpoint);

impl Targets {
    /// Makes one of a target that is for everybody.
    pub(crate) fn common(target: Target) -> Targets {
        let text = target.endpoint.to_string();
        let choice = Choice {
            machines: None,
            port: None,
            name: None,
            target,
        };
        Targets {
            choices: vec![choice],
            route: Route::default(),
            text,
        }
    }

    /// Looks up all names. `locals`: where the peers connect to.
    ///
    /// Errors: those of [`Target::resolve`], [`machines`] and [`check_listeners`]; a port that no listener names.
    pub(crate) fn resolve(
        list: &TargetList,
        locals: &[Endpoint],
        names: &Known<'_>,
    ) -> Result<Targets> {
        check_listeners(list, locals)?;
        let mut choices = Vec::new();
        for (machines, endpoint) in machines(list, names)? {
            let machines = machines.map(|(list, machines)| (list.clone(), machines));
            for (port, endpoint) in endpoint.clone().at_ports_of(locals)? {
                let (name, target) = match endpoint.into_target()? {
                    Endpoint::VsockName { name, port } => {
                        let target = Target::of_machine(&name, port, names)?;
                        (Some((name, port)), target)
                    }
                    endpoint => (None, Target::resolve(endpoint, names)?),
                };
                choices.push(Choice {
                    machines: machines.clone(),
                    port,
                    name,
                    target,
                });
            }
        }
        let text = match (list, &choices[..]) {
            (TargetList::Common(_), [only]) => only.target.endpoint.to_string(),
            _ => list.to_string(),
        };
        Ok(Targets {
            choices,
            route: Route::default(),
            text,
        })
    }

    /// Returns them with other machines reached by a route.
    pub(crate) fn led(self, route: Route) -> Targets {
        let lead = |choice: Choice| Choice {
            target: choice.target.led(&route),
            ..choice
        };
        Targets {
            choices: self.choices.into_iter().map(lead).collect(),
            route,
            ..self
        }
    }

    /// Returns how other machines are reached.
    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    /// Returns the names of machines that they depend on.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.choices.iter().flat_map(|choice| {
            let lists = choice.machines.iter().flat_map(|(list, _)| list.names());
            let name = choice.name.as_ref().map(|(name, _)| &**name);
            lists.chain(name)
        })
    }

    /// Returns them with all names of machines looked up again; each keeps its number. An address that `check` refuses is
    /// not used. None if nothing has changed.
    pub(crate) fn renamed(
        &self,
        names: &Known<'_>,
        check: impl Fn(&Target) -> Result<()>,
    ) -> Option<Targets> {
        let mut choices = self.choices.clone();
        let mut has_changed = false;
        for choice in &mut choices {
            has_changed |= choice.rename(names, &self.route, &check);
        }
        let text = match &choices[..] {
            [only] if only.machines.is_none() => only.target.endpoint.to_string(),
            _ => self.text.clone(),
        };
        has_changed.then(|| Targets {
            choices,
            route: self.route.clone(),
            text,
        })
    }

    /// Returns the number of the target that a peer is to be connected to, if there is one for it.
    pub(crate) fn choose(&self, peer: &Peer, destination: Destination) -> Option<usize> {
        let is_for = |choice: &Choice| choice.is_for(peer, destination);
        self.choices.iter().position(is_for)
    }

    /// Returns the target with that number, which [`Targets::choose`] gave.
    pub(super) fn get(&self, number: usize) -> &Target {
        &self.choices[number].target
    }

    /// Returns where everybody goes who comes to that listener, or what is printed for all.
    pub(crate) fn for_all_of(&self, listener: &Endpoint) -> &dyn fmt::Display {
        let port = Destination::new(listener).port();
        let is_it = |choice: &&Choice| choice.machines.is_none() && choice.port == port;
        match self.choices.iter().find(is_it) {
            Some(choice) => &choice.target.endpoint,
            None => self,
        }
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.choices.len()
    }

    /// Returns all of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.choices.iter().map(|choice| &choice.target)
    }

    /// Returns all of them, to be changed before they are used.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Target> {
        self.choices.iter_mut().map(|choice| &mut choice.target)
    }

    /// Returns whether where a peer connected to tells which target it is for.
    pub(crate) fn follow_destination(&self) -> bool {
        let follows = |choice: &Choice| {
            choice.machines.is_some() || choice.port.is_some() || choice.target.is_mapped()
        };
        self.choices.iter().any(follows)
    }

    /// Returns why targets cannot be reached whose machines are not there.
    pub(crate) fn absences(&self) -> impl Iterator<Item = Error> {
        let targets = self.iter().filter(|target| target.is_absent());
        targets.map(Target::absence)
    }

    /// Returns whether where a peer goes may have been another place when it came, since names have changed.
    pub(crate) fn follow_names(&self) -> bool {
        self.names().next().is_some()
    }

    /// Returns the lists of machines that have a target, and none of which is let in.
    pub(crate) fn shut_out<'a>(
        &'a self,
        allowed: &'a AllowedCids,
    ) -> impl Iterator<Item = &'a str> {
        let lists = self
            .choices
            .iter()
            .filter_map(|choice| choice.machines.as_ref().map(|(_, machines)| machines));
        let is_shut_out =
            |list: &&AllowedCids| !list.is_any() && !list.is_nobody() && !list.meets(allowed);
        let shut_out = lists.filter(is_shut_out);
        shut_out.map(|list| &**list.list())
    }
}

impl Choice {
    fn is_for(&self, peer: &Peer, destination: Destination) -> bool {
        let has_port = self.port.is_none() || self.port == destination.port();
        has_port
            && self
                .machines
                .as_ref()
                .is_none_or(|(_, machines)| has(machines, peer, destination))
    }

    /// Looks its names up again; returns whether they have changed. What was wrong with names was told at the start.
    fn rename(
        &mut self,
        names: &Known<'_>,
        route: &Route,
        check: impl Fn(&Target) -> Result<()>,
    ) -> bool {
        let mut has_changed = false;
        if let Some((list, machines)) = &mut self.machines {
            if let Ok((now, _)) = list.resolve_present(names) {
                has_changed |= now != *machines;
                *machines = now;
            }
        }
        let Some((name, port)) = &self.name else {
            return has_changed;
        };
        let Ok(now) = Target::of_machine(name, *port, names) else {
            return has_changed;
        };
        let mut now = now.led(route);
        if let Err(error) = check(&now) {
            log::warn!("the new address of {name} is not used: {}", error.report());
            now = Target::absent(name, *port);
        }
        if (&now.endpoint, &now.problem) != (&self.target.endpoint, &self.target.problem) {
            now.source = self.target.source;
            self.target = now;
            has_changed = true;
        }
        has_changed
    }
}

fn has(machines: &AllowedCids, peer: &Peer, destination: Destination) -> bool {
    peer.cid().is_some_and(|cid| match destination.is_own(cid) {
        true => machines.contains_local(),
        false => machines.contains(cid),
    })
}

/// Checks that some peer can have a target: one that comes over vsock has a CID, and the one of `vsock:mapped` is in the
/// address that a peer connected to over IPv6.
///
/// Errors: [`Error::Usage`].
pub(crate) fn check_listeners(list: &TargetList, locals: &[Endpoint]) -> Result<()> {
    let is_vsock = |local: &Endpoint| matches!(local, Endpoint::Vsock(_));
    let is_ipv6 = |local: &Endpoint| matches!(local, Endpoint::Tcp(address) if address.is_ipv6());
    let is_mapped = |endpoint: &Endpoint| matches!(endpoint, Endpoint::VsockMapped(_));
    if locals.is_empty() {
        return Ok(());
    }
    if !matches!(list, TargetList::Common(_)) && !locals.iter().any(is_vsock) {
        return Err(Error::Usage(format!(
            "{list} are targets for machines that come over vsock, and no listener of this bridge is vsock: give \
             `--to` or VSOCK_BRIDGE_TO one target for everybody, e.g. [::1]:445"
        )));
    }
    let mapped = list.endpoints().find(|endpoint| is_mapped(endpoint));
    match mapped.filter(|_| !locals.iter().any(is_ipv6)) {
        Some(mapped) => Err(Error::Usage(format!(
            "{mapped} takes the CID from the IPv6 address that a peer connected to, and no listener of this bridge has one: \
             name the machine in `--to` or VSOCK_BRIDGE_TO, e.g. vsock:2:445"
        ))),
        None => Ok(()),
    }
}

/// Looks up the names of the machines that have a target of their own; none: everybody. Those of `any` come last, since it is
/// for all that have none, and before them those with names of the registry: what the administrator says of a CID has the
/// word over what a name makes of it now.
///
/// Errors: those of names, but not for a machine that is absent; the administrator gives one machine two targets, and which one
/// is meant would be a guess.
pub(crate) fn machines<'a>(list: &'a TargetList, names: &Known<'_>) -> Result<Vec<Share<'a>>> {
    let each = match list {
        TargetList::Common(endpoint) => return Ok(vec![(None, endpoint)]),
        TargetList::Each(each) => each,
    };
    check_twice(each, &names.lasting())?;
    let mut found = Vec::new();
    for (list, endpoint) in each {
        let is_lasting = list.resolve(&names.lasting()).is_ok();
        let (machines, _) = list.resolve_present(names)?;
        found.push(((machines.is_any(), !is_lasting), (list, machines), endpoint));
    }
    found.sort_by_key(|(place, ..)| *place);
    let found = found.into_iter();
    Ok(found
        .map(|(_, machines, endpoint)| (Some(machines), endpoint))
        .collect())
}

/// Checks that no machine has two targets.
fn check_twice(each: &[(AllowList, Endpoint)], names: &Known<'_>) -> Result<()> {
    let mut found: Vec<(AllowedCids, &Endpoint)> = Vec::new();
    for (list, endpoint) in each {
        let (machines, _) = list.resolve_present(names)?;
        for (others, other) in &found {
            if let Some(machine) = machines.common(others) {
                return Err(Error::Usage(format!(
                    "machine {machine} has two targets, {}={other} and {}={endpoint}: leave one out of VSOCK_BRIDGE_TO",
                    others.list(),
                    machines.list()
                )));
            }
        }
        found.push((machines, endpoint));
    }
    Ok(())
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::GivenNames;
    use crate::registry::Registry;
    use crate::vsock::{Cid, VsockAddr};

    fn targets(text: &str, locals: &[&str]) -> Result<Targets> {
        let locals: Vec<Endpoint> = locals.iter().map(|local| local.parse().unwrap()).collect();
        let names: GivenNames = "web=5".parse().unwrap();
        let registry = Registry::default();
        let names = Known::with(Some(&names), &registry);
        Targets::resolve(&text.parse()?, &locals, &names)
    }

    fn chosen(targets: &Targets, peer: &Peer, listener: &str) -> Option<String> {
        let destination = Destination::new(&listener.parse().unwrap());
        let number = targets.choose(peer, destination)?;
        Some(targets.get(number).endpoint.to_string())
    }

    fn guest(number: u32) -> Peer {
        Peer::Vsock(VsockAddr {
            cid: Cid::new(number),
            port: 1000u16.into(),
        })
    }

    #[test]
    fn each_machine_has_the_target_that_names_it() {
        let list = "3=/run/a.sock any=@others web,7=[::1]:80 100-200=[::1]:81 local=/run/l.sock";
        let targets = targets(list, &["vsock::445"]).unwrap();
        assert_eq!(targets.to_string(), list);
        for (number, listener, target) in [
            (3, "vsock:9:445", "/run/a.sock"),
            (5, "vsock:9:445", "[::1]:80"),
            (7, "vsock:9:445", "[::1]:80"),
            (150, "vsock:9:445", "[::1]:81"),
            (201, "vsock:9:445", "@others"),
            (1, "vsock:9:445", "/run/l.sock"),
            // It came from the CID that it went to: this machine itself.
            (3, "vsock:3:445", "/run/l.sock"),
        ] {
            let found = chosen(&targets, &guest(number), listener);
            assert_eq!(found.as_deref(), Some(target), "{number} to {listener}");
        }
    }

    #[test]
    fn who_is_not_named_has_no_target() {
        let targets = targets("3=/run/a.sock 100-200=[::1]:81", &["vsock::445"]).unwrap();
        for number in [0, 1, 2, 4, 99, 201] {
            assert_eq!(
                chosen(&targets, &guest(number), "vsock:9:445"),
                None,
                "{number}"
            );
        }
        let others = [
            Peer::Unix(Some(0)),
            Peer::Tcp("::1".parse().unwrap(), 3),
            Peer::Stdio,
        ];
        for peer in others {
            assert_eq!(chosen(&targets, &peer, "vsock:9:445"), None, "{peer}");
        }
    }

    #[test]
    fn a_mapped_port_is_that_of_the_listener_that_a_peer_came_to() {
        let locals = ["[::1]:7005", "vsock::7006", "/run/vm.vsock_7007"];
        let targets = targets("[::1]:mapped", &locals).unwrap();
        assert_eq!(targets.to_string(), "[::1]:mapped");
        for (listener, target) in [
            ("[::1]:7005", Some("[::1]:7005")),
            ("vsock:3:7006", Some("[::1]:7006")),
            ("/run/vm.vsock_7007", Some("[::1]:7007")),
            ("[::1]:7008", None),
        ] {
            let found = chosen(&targets, &guest(3), listener);
            assert_eq!(found.as_deref(), target, "{listener}");
        }
    }

    #[test]
    fn one_port_of_all_listeners_is_one_target() {
        let found = targets("[::1]:mapped", &["[::2]:445", "vsock::445"]).unwrap();
        assert_eq!(
            (found.count(), found.to_string()),
            (1, "[::1]:445".to_owned())
        );
        assert!(!found.follow_destination());
    }

    #[test]
    fn machines_and_ports_go_together() {
        let list = "3=[::1]:mapped 4=/run/a.sock";
        let targets = targets(list, &["vsock::80", "vsock::81"]).unwrap();
        assert_eq!(
            chosen(&targets, &guest(3), "vsock:9:80").as_deref(),
            Some("[::1]:80")
        );
        assert_eq!(
            chosen(&targets, &guest(3), "vsock:9:81").as_deref(),
            Some("[::1]:81")
        );
        assert_eq!(
            chosen(&targets, &guest(4), "vsock:9:81").as_deref(),
            Some("/run/a.sock")
        );
    }

    #[test]
    fn what_would_be_a_guess_is_refused() {
        for (list, locals, words) in [
            (
                "3=@a 1-9=@b",
                &["vsock::1"][..],
                "machine 3 has two targets, 3=@a and 1-9=@b",
            ),
            ("web=@a 5=@b", &["vsock::1"], "machine 5 has two targets"),
            ("local=@a 1=@b", &["vsock::1"], "machine 1 has two targets"),
            (
                "any=@a any,local=@b",
                &["vsock::1"],
                "machine any has two targets",
            ),
            (
                "3=@a 4=@b",
                &["[::1]:1"],
                "no listener of this bridge is vsock",
            ),
            (
                "vsock:mapped",
                &["vsock::445", "127.0.0.1:445"],
                "vsock:mapped takes the CID from the IPv6 address",
            ),
            ("3=vsock::1", &["vsock::1"], "a target needs a CID"),
            (
                "[::1]:mapped",
                &["[::1]:1", "/run/x.sock"],
                "/run/x.sock names no port",
            ),
        ] {
            let error = targets(list, locals).unwrap_err().to_string();
            assert!(error.contains(words), "{list}: {error}");
        }
    }

    #[test]
    fn names_are_looked_up_again_and_targets_keep_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("a.conf"), text).unwrap();
        let given: GivenNames = "db=4".parse().unwrap();
        let list: TargetList = "web=@web 5=@five db=vsock:web:1 any=@others"
            .parse()
            .unwrap();
        let locals = ["vsock::1".parse().unwrap()];
        let registry = Registry::read(folder.path());
        let names = Known::with(Some(&given), &registry);
        let targets = Targets::resolve(&list, &locals, &names).unwrap();
        assert_eq!(Vec::from_iter(targets.names()), ["db", "web", "web"]);
        let absences: Vec<String> = targets.absences().map(|error| error.to_string()).collect();
        assert!(absences.len() == 1 && absences[0].starts_with("no machine is named \"web\""));
        let to = |targets: &Targets, number| chosen(targets, &guest(number), "vsock:9:1").unwrap();
        let before = [(3, "@others"), (4, "vsock:web:1"), (5, "@five")];
        for (number, target) in before {
            assert_eq!(to(&targets, number), target);
        }
        let renamed = |targets: &Targets, check: fn(&Target) -> Result<()>| {
            let registry = Registry::read(folder.path());
            targets.renamed(&Known::with(Some(&given), &registry), check)
        };
        assert!(renamed(&targets, |_| Ok(())).is_none());
        // What the administrator says of CID 5 has the word.
        for (text, three, five) in [
            ("web=3\n", "@web", "@five"),
            ("web=5\n", "@others", "@five"),
        ] {
            write(text);
            let now = renamed(&targets, |_| Ok(())).unwrap();
            let place = format!("vsock:{}:1", &text[4..5]);
            assert_eq!((&*to(&now, 3), &*to(&now, 5)), (three, five));
            assert_eq!(to(&now, 4), place);
            let number = now.choose(&guest(4), Destination::Unnamed);
            assert_eq!(number, targets.choose(&guest(4), Destination::Unnamed));
            assert!(renamed(&now, |_| Ok(())).is_none());
        }
        let refuse = |_: &Target| Err(Error::Usage("leads back".to_owned()));
        let now = renamed(&targets, refuse).unwrap();
        assert_eq!(to(&now, 4), "vsock:web:1");
    }

    #[test]
    fn machines_with_a_target_that_are_not_let_in_are_known() {
        let targets = targets("3=@a local=@b 100-200=@c", &["vsock::1"]).unwrap();
        let shut_out = |list: &str| {
            let allowed: crate::allow_list::AllowList = list.parse().unwrap();
            let allowed = allowed.resolve(&Known::now(None)).unwrap();
            targets.shut_out(&allowed).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shut_out("any"), "local");
        assert_eq!(shut_out("any,local"), "");
        assert_eq!(shut_out("3,150"), "local");
        assert_eq!(shut_out("1-50,local"), "100-200");
    }
}
