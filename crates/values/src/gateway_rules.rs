//! Who may go where through the gateway: the lines of its rule files.
//!
//! A line is `WHO WHERE... [as-peer]`. There is no rule against anybody: what no line allows is refused. Pure but for the names of
//! machines, which are looked up where the names are given.

mod goal;

use std::net::IpAddr;
use std::sync::Arc;

pub use goal::Leads;
use goal::{AS_PEER, Goal};

use crate::allow_list::{AllowList, AllowedCids};
use crate::endpoint::Endpoint;
use crate::known::Known;
use crate::unusable::Unusable;
use crate::vsock::{Cid, VsockPort};

/// The name of the variable that names another file.
pub const VARIABLE: &str = "VSOCK_BRIDGE_RULES";
/// Where the rules are where that is not set.
pub const PATH: &str = "/etc/vsock-bridge/gateway.conf";
/// What others write between who and where.
const ARROWS: [&str; 7] = ["->", "=>", "→", ">", "=", ":", "to"];
/// More of them, in `*.conf`.
pub const FOLDER: &str = "/etc/vsock-bridge/gateway.conf.d";

/// A peer as rules know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Another machine.
    Machine(Cid),
    /// A process of this machine.
    Local,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The line, from 1.
    pub line: usize,
    /// As it was written, with one space between words and without a comment.
    text: Box<str>,
    who: AllowList,
    goals: Vec<Goal>,
    is_as_peer: bool,
}

/// One line with the names of machines looked up.
#[derive(Clone, Debug)]
pub struct ResolvedRule {
    file: Arc<str>,
    line: usize,
    text: Box<str>,
    who: AllowedCids,
    goals: Box<[Goal]>,
    is_as_peer: bool,
}

/// Reads line by line; what is wrong with one is told with its number, from 1.
pub fn parse(text: &str) -> impl Iterator<Item = Result<Rule, (usize, String)>> + '_ {
    // Some editors write a mark for UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().enumerate().filter_map(|(index, line)| {
        let rule = read_line(without_comment(line), index + 1);
        rule.map_err(|problem| (index + 1, problem)).transpose()
    })
}

/// A comment begins a line, or stands behind a space.
fn without_comment(line: &str) -> &str {
    let starts = line.match_indices('#').map(|(at, _)| at);
    let is_comment = |&at: &usize| line[..at].is_empty() || line[..at].ends_with([' ', '\t']);
    starts
        .clone()
        .find(is_comment)
        .map_or(line, |at| &line[..at])
}

fn read_line(line: &str, number: usize) -> Result<Option<Rule>, String> {
    let mut words = line.split_whitespace();
    let Some(who) = words.next() else {
        return Ok(None);
    };
    let mut words: Vec<&str> = words.collect();
    if let (Some(verb), Some((machine, [_, ..]))) = (verb(who), words.split_first()) {
        // With one word behind it it may be the name of a machine.
        return Err(match verb {
            Verb::Allows => format!(
                "every rule allows, without a word for it: write {}",
                words.join(" ")
            ),
            Verb::Forbids => format!(
                "no rule forbids: what none allows is refused, so leave the line out, and {machine} out of those that allow it"
            ),
        });
    }
    let who: AllowList = who.parse().map_err(|error| format!("{error}"))?;
    let is_as_peer = words.last() == Some(&AS_PEER);
    if is_as_peer {
        words.pop();
    }
    if words.first().is_some_and(|word| ARROWS.contains(word)) {
        return Err(format!(
            "only spaces stand between who and where: write {} {}",
            who.text(),
            words.get(1).unwrap_or(&"db:5432")
        ));
    }
    if words.contains(&AS_PEER) {
        return Err(format!("{AS_PEER} stands once, at the end of the line"));
    }
    let goals: Vec<Goal> = (words.into_iter().map(Goal::read)).collect::<Result<_, _>>()?;
    if goals.is_empty() {
        return Err(format!(
            "where {} may go is missing; expected e.g. {0} db:5432 mirror.example.net:443",
            who.text()
        ));
    }
    if is_as_peer && !goals.iter().any(Goal::may_be_another_machine) {
        return Err(format!(
            "{AS_PEER} is for other machines, and the rule names none; expected e.g. {} db:5432 {AS_PEER}",
            who.text()
        ));
    }
    Ok(Some(Rule {
        line: number,
        text: line.split_whitespace().collect::<Vec<_>>().join(" ").into(),
        who,
        goals,
        is_as_peer,
    }))
}

/// What the first word of a line means in other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `allow`
    Allows,
    /// `deny`
    Forbids,
}

/// Returns what other programs mean by a word where the machine stands here.
pub fn verb(word: &str) -> Option<Verb> {
    match &*word.to_ascii_lowercase() {
        "allow" | "accept" | "permit" | "pass" => Some(Verb::Allows),
        "deny" | "drop" | "reject" | "block" | "refuse" => Some(Verb::Forbids),
        _ => None,
    }
}

impl Rule {
    /// Looks the names of machines up. `file`: where the rule stands, for people. What names no machine, as one that does
    /// not run, is left out; why is told besides.
    pub fn resolve(self, file: Arc<str>, names: &Known<'_>) -> (ResolvedRule, Vec<Unusable>) {
        let (who, mut unknown) = self.who.resolve_known(names);
        let mut goals = Vec::with_capacity(self.goals.len());
        for goal in self.goals {
            match goal.resolve(names) {
                Ok(goal) => goals.push(goal),
                Err(problem) => unknown.push(problem),
            }
        }
        let rule = ResolvedRule {
            file,
            line: self.line,
            text: self.text,
            who,
            goals: goals.into(),
            is_as_peer: self.is_as_peer,
        };
        (rule, unknown)
    }
}

impl ResolvedRule {
    /// Returns where it stands, `FILE:LINE`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Returns whether it is for a peer.
    pub fn is_for(&self, who: Who) -> bool {
        match who {
            Who::Machine(cid) => self.who.contains(cid),
            Who::Local => self.who.contains_local(),
        }
    }

    /// Returns whether a machine that it leads to sees who comes.
    pub fn is_as_peer(&self) -> bool {
        self.is_as_peer
    }

    /// Returns it as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns where each of its places is.
    pub fn leads(&self) -> impl Iterator<Item = Leads<'_>> {
        self.goals.iter().filter_map(Goal::leads)
    }

    /// Returns whether it leads somebody there. A machine is asked for by its location.
    pub fn leads_to(&self, asked: &Endpoint) -> bool {
        self.goals.iter().any(|goal| goal.has(asked))
    }

    /// Returns whether it leads somebody to that port of a machine behind hybrid vsock, of which only the name is known.
    pub fn leads_to_hybrid(&self, port: VsockPort) -> bool {
        self.goals.iter().any(|goal| goal.has_hybrid(port))
    }

    /// Returns whether it lets a peer go there. A machine is asked for by its location, not by its name.
    pub fn allows(&self, who: Who, asked: &Endpoint) -> bool {
        self.is_for(who) && self.leads_to(asked)
    }

    /// Returns whether it names an address as an address.
    pub fn names_address(&self, who: Who, ip: IpAddr, port: u16) -> bool {
        self.is_for(who) && self.goals.iter().any(|goal| goal.has_address(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asked;
    use crate::names::GivenNames;
    use crate::registry::Registry;

    const NAMES: &str = "web=3 db=4 build=7";

    /// Looks up in those alone, and in a registry with one machine.
    fn with_names<T>(look: impl FnOnce(&Known<'_>) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.conf"), "hy=/run/hy.vsock\n").unwrap();
        let (given, registry): (GivenNames, _) =
            (NAMES.parse().unwrap(), Registry::read(folder.path()));
        look(&Known::with(Some(&given), &registry))
    }

    fn rules(text: &str) -> Vec<ResolvedRule> {
        let rule = |rule: Result<Rule, (usize, String)>| {
            let (rule, unknown) = with_names(|names| rule.unwrap().resolve("x".into(), names));
            assert!(unknown.is_empty(), "{unknown:?}");
            rule
        };
        parse(text).map(rule).collect()
    }

    /// The line of the first rule that allows it; as the gateway does, with machines by their CIDs.
    fn allowed(rules: &[ResolvedRule], who: u32, text: &str) -> Option<String> {
        let who = match who {
            1 => Who::Local,
            cid => Who::Machine(Cid::new(cid).unwrap()),
        };
        let asked = match asked::authority(text).unwrap() {
            Endpoint::VsockName { name, port } => {
                with_names(|names| names.endpoint(&name, port)).ok()?
            }
            other => other,
        };
        let found = rules.iter().find(|rule| rule.allows(who, &asked))?;
        Some(found.place())
    }

    #[test]
    fn where_a_rule_leads_one_port_stands_for_all() {
        let text = "web db:5432,80 hy:1 20-29:22 host:53 10.1.0.0/16:* [2001:db8::1]:22 a.example.net:80 *.example.org:443";
        let rules = rules(text);
        let leads: Vec<String> = rules[0]
            .leads()
            .map(|leads| match leads {
                Leads::To(endpoint) => endpoint.to_string(),
                Leads::Into(ip, bits) => format!("{ip}/{bits}"),
                Leads::Named(name) => name.to_owned(),
            })
            .collect();
        assert_eq!(
            leads,
            [
                "vsock:4:5432",
                "vsock-mux:/run/hy.vsock:1",
                "vsock:20:22",
                "[::1]:53",
                "10.1.0.0/16",
                "2001:db8::1/128",
                "a.example.net",
                "example.org"
            ]
        );
    }

    #[test]
    fn who_may_go_where() {
        let rules = rules(
            "# who where\n\
             web          db:5432 hy:1 cache.example.net:6379   # a comment\n\
             3,100-200    mirror.example.net:80,443 *.example.org:443,8000-8010\n\
             \n\
             build\t10.1.0.0/16:* [2001:db8::/32]:22 192.0.2.7:80\n\
             any          host:53\n\
             any,local    20-29:22\n\
             9            *.vsock:22 Mirror.Example.COM.:1\n",
        );
        for (who, asked, place) in [
            (3, "db.vsock:5432", Some("x:2")),
            (3, "4.vsock:5432", Some("x:2")),
            (3, "hy.vsock:1", Some("x:2")),
            (3, "hy.vsock:2", None),
            (9, "hy.vsock:22", None),
            (3, "db.vsock:5433", None),
            (3, "db:5432", None),
            (3, "unknown.vsock:5432", None),
            (7, "db.vsock:5432", None),
            (3, "cache.example.net:6379", Some("x:2")),
            (3, "mirror.example.net:443", Some("x:3")),
            (150, "MIRROR.example.net.:80", Some("x:3")),
            (201, "mirror.example.net:80", None),
            (3, "mirror.example.net:81", None),
            (3, "a.mirror.example.net:80", None),
            (3, "a.b.example.org:8005", Some("x:3")),
            (3, "example.org:443", None),
            (3, "badexample.org:443", None),
            (7, "10.1.255.1:65535", Some("x:5")),
            (7, "[::ffff:10.1.0.1]:1", Some("x:5")),
            (7, "10.2.0.1:80", None),
            (7, "[2001:db8:1::1]:22", Some("x:5")),
            (7, "[2001:db9::1]:22", None),
            (7, "192.0.2.7:80", Some("x:5")),
            (7, "192.0.2.8:80", None),
            (77, "host.vsock:53", Some("x:6")),
            (1, "host.vsock:53", None),
            (1, "25.vsock:22", Some("x:7")),
            (5, "30.vsock:22", None),
            (9, "30.vsock:22", Some("x:8")),
            (9, "host.vsock:22", None),
            (9, "mirror.example.com:1", Some("x:8")),
        ] {
            let found = allowed(&rules, who, asked);
            assert_eq!(found.as_deref(), place, "{who} to {asked}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (line, words) in [
            ("web", "where web may go is missing"),
            ("web #db:1", "where web may go is missing"),
            ("we,,b db:1", "list of machines"),
            ("web db", "the port is missing: write db:PORT"),
            ("web db:", "ports"),
            ("web db:0", "ports"),
            ("web db:70000", "ports"),
            ("web db:90-80", "ports"),
            ("web db:80,", "ports"),
            ("web *:22", "*.vsock:22"),
            ("web *.com:443", "two labels"),
            ("web a.*.example.org:443", "at the front"),
            ("web *a.example.org:443", "at the front"),
            ("web *.*.example.org:443", "at the front"),
            ("web https://example.org/:443", "write example.org:443"),
            ("web http://example.org", "write example.org:80"),
            ("web 10.1.2.3/16:*", "10.1.0.0/16"),
            ("web 10.1.0.0/33:*", "0 to 32"),
            ("web 10.1.0.0:*/16", "ports"),
            ("web [2001:db8::1/32]:22", "[2001:db8::/32]"),
            ("web [2001:db8::]/32:22", "[2001:db8::/32]:PORT"),
            ("web [2001:db8::/129]:22", "0 to 128"),
            ("web 2001:db8::1:22", "in brackets"),
            ("web [::ffff:10.0.0.1]:22", "write 10.0.0.1"),
            ("web [fe80::1%eth0]:22", "zone ids"),
            ("web 127.1:80", "nor the name"),
            ("web 0x7f.1:80", "nor the name"),
            ("web bücher.example:80", "xn--"),
            ("web *.web.vsock:22", "write *.vsock"),
            ("web 1-5:22", "from 3"),
            ("web local:22", "host:PORT"),
            ("web 1:22", "host:PORT"),
            ("web 9-5:22", "nor the name"),
            ("web vsock:4:22", "write 4:22"),
            ("web db:1 as-pear", "did you mean as-peer?"),
            ("web db:1 AS_PEER", "did you mean as-peer?"),
            ("web db:1 aspeers", "did you mean as-peer?"),
            ("web db:1 cache", "write cache:PORT"),
            ("web -> db:5432", "write web db:5432"),
            ("web => db", "write web db"),
            ("web to db:1", "write web db:1"),
            ("web ->", "write web db:5432"),
            ("web ssh://db", "write db:22"),
            ("web ssh://root@db/", "write db:22"),
            ("web tcp://db:5432", "write db:5432"),
            ("web redis://[2001:db8::1]/0", "write [2001:db8::1]:6379"),
            ("web gopher://db", "write db:PORT"),
            ("web *", "every machine is *.vsock:PORT"),
            ("web any", "every machine is *.vsock:PORT"),
            ("web any:443", "write *.vsock:443"),
            ("web =", "only spaces stand between"),
            ("web //", "nor the name"),
            ("web example.org/", "nor the name"),
            ("web localhost:80", "written host:PORT"),
            ("web db:80:90", "one colon"),
            ("web tcp:a.example:80", "write a.example:80"),
            ("web udp:db:53", "UDP does not go through"),
            ("allow web db:1", "write web db:1"),
            ("DENY web db:1", "no rule forbids"),
            ("web as-peer", "where web may go is missing"),
            ("web as-peer db:1", "at the end"),
            ("web db:1 as-peer as-peer", "at the end"),
            (
                "web host:53 mirror.example.net:80 as-peer",
                "the rule names none",
            ),
        ] {
            let text = format!("# first\n{line}\n");
            let [Err((2, problem))] = &parse(&text).collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert!(problem.contains(words), "{line}: {problem}");
        }
    }

    #[test]
    fn a_mark_for_utf_8_is_no_part_of_the_first_rule() {
        let rules = rules("\u{feff}web db:5432\n");
        assert_eq!(allowed(&rules, 3, "db.vsock:5432").as_deref(), Some("x:1"));
    }

    #[test]
    fn machines_of_a_rule_see_who_comes_where_it_says_so() {
        let rules = rules("web db:1 host:2 as-peer # a comment\nweb 4-9:2 as-peer\nweb db:3\n");
        let found: Vec<bool> = rules.iter().map(ResolvedRule::is_as_peer).collect();
        assert_eq!(found, [true, true, false]);
        assert_eq!(rules[0].text(), "web db:1 host:2 as-peer");
    }

    #[test]
    fn a_machine_that_nobody_knows_is_told_and_left_out() {
        for (text, count) in [
            ("wbe db:1", 1),
            ("web bd:1", 1),
            ("hy,web 4:1 bd.vsock:1 dd:1", 3),
        ] {
            let rule = parse(text).next().unwrap().unwrap();
            let (rule, unknown) = with_names(|names| rule.resolve("x".into(), names));
            assert_eq!(unknown.len(), count, "{text}");
            let found = allowed(&[rule], 3, "4.vsock:1");
            assert_eq!(found.is_some(), text.starts_with("hy"), "{text}");
        }
    }
}
