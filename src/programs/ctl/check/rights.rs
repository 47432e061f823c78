//! Whether the user of a service may write to the unix socket that it connects to, and the drop-in that lets it.
//!
//! The kernel is asked, by a program that runs as that user: it alone knows of lists of rights (acl(5)) besides modes.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::finding::{Finding, Level};
use super::sandbox::drop_in;
use crate::clock::Moment;
use crate::tool::{self, ANSWER_TIME};

/// Sockets by which one becomes root.
const OF_ROOT: [&str; 4] = [
    "docker.sock",
    "podman.sock",
    "containerd.sock",
    "libvirt-sock",
];
/// Groups that one line offers; one for each folder at the most.
const GROUPS_MAX: usize = 8;

/// As whom a service runs, in the words of `systemctl show`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User=; empty for root.
    pub(crate) user: String,
    /// Group=; empty for that of the user.
    pub(crate) group: String,
    /// SupplementaryGroups=.
    pub(crate) groups: String,
}

/// The same in numbers.
#[derive(Clone, Debug)]
struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Identity {
    /// Looks the names up; none if there is no such user, which has a line of its own, or only while the service runs.
    fn ids(&self) -> Option<Ids> {
        let user = match &*self.user {
            "" => User::from_uid(Uid::from_raw(0)),
            name => match name.parse() {
                Ok(number) => User::from_uid(Uid::from_raw(number)),
                Err(_) => User::from_name(name),
            },
        };
        let user = user.ok().flatten()?;
        let gid = match &*self.group {
            "" => user.gid,
            name => named(name)?,
        };
        let name = std::ffi::CString::new(user.name).ok()?;
        let mut groups = getgrouplist(&name, gid).ok()?;
        groups.extend(self.groups.split_whitespace().filter_map(named));
        Some(Ids {
            uid: user.uid,
            gid,
            groups,
        })
    }
}

/// Returns the group with that name or number.
fn named(name: &str) -> Option<Gid> {
    match name.parse() {
        Ok(number) => Some(Gid::from_raw(number)),
        Err(_) => Some(Group::from_name(name).ok()??.gid),
    }
}

impl Ids {
    /// Asks whether test(1) holds for them, without a capability, as our services are; none if that cannot be asked.
    fn may(&self, test: &str, path: &Path) -> Option<bool> {
        let groups: Vec<String> = self.groups.iter().map(Gid::to_string).collect();
        let ids = [
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            format!("--groups={}", groups.join(",")),
        ];
        let rest = ["--bounding-set=-all", "--inh-caps=-all", "--", "test", test];
        let arguments = ids.iter().map(OsStr::new).chain(rest.map(OsStr::new));
        let arguments: Vec<&OsStr> = arguments.chain([path.as_os_str()]).collect();
        // A path on a file system that has gone, such as one of NFS, may never be looked at.
        let deadline = Moment::now() + ANSWER_TIME;
        let (status, _) = tool::try_out("setpriv".as_ref(), &arguments, deadline).ok()??;
        match status.code()? {
            0 => Some(true),
            1 => Some(false),
            _ => None,
        }
    }

    /// Finds what is in their way to a socket: a folder that they may not search, or the socket itself.
    fn obstacle(&self, socket: &Path) -> Option<Obstacle> {
        let real = fs::canonicalize(socket).ok()?;
        let mut folders: Vec<&Path> = socket.ancestors().chain(real.ancestors()).collect();
        folders.retain(|&path| path != socket && path != real);
        folders.sort_by_key(|path| path.as_os_str().len());
        let is_shut = |test: &str, path: &Path| self.may(test, path) == Some(false);
        let folder = folders.into_iter().find(|folder| is_shut("-x", folder));
        match folder {
            Some(folder) => Obstacle::at(folder, "search", 0o010),
            None if is_shut("-w", &real) => Obstacle::at(&real, "write to", 0o020),
            None => None,
        }
    }
}

/// What is in the way, and whose it is.
#[derive(Debug)]
struct Obstacle {
    path: PathBuf,
    /// What cannot be done.
    verb: &'static str,
    owner: String,
    group: String,
    mode: u32,
    /// The group that may do it.
    allowed: Option<Gid>,
}

impl Obstacle {
    fn at(path: &Path, verb: &'static str, of_group: u32) -> Option<Obstacle> {
        let metadata: Metadata = fs::metadata(path).ok()?;
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        let owner = User::from_uid(uid).ok().flatten();
        let group = Group::from_gid(gid).ok().flatten();
        let mode = metadata.permissions().mode() & 0o7777;
        // Whoever is in the group of root has more than a socket.
        let is_for_group = mode & of_group != 0 && gid.as_raw() != 0;
        Some(Obstacle {
            path: path.to_owned(),
            verb,
            owner: owner.map_or(uid.to_string(), |user| user.name),
            group: group.map_or(gid.to_string(), |group| group.name),
            mode,
            allowed: is_for_group.then_some(gid),
        })
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Obstacle {
            path,
            verb,
            owner,
            group,
            mode,
            ..
        } = self;
        let path = path.display();
        write!(f, "{verb} {path}, which is {owner}:{group} {mode:04o}")
    }
}

/// What would let the user of a service write to a socket.
#[derive(Debug)]
pub(crate) enum Access {
    /// To be in these groups as well.
    Groups(Vec<String>),
    /// To be another user, whose it is.
    Owner(String),
    /// Nothing but to be root; what is in the way.
    Nobody(String),
}

/// Returns what lets a user write to a socket; none if nothing is in the way, or that cannot be asked. Only root can ask.
pub(crate) fn access(identity: &Identity, socket: &Path) -> Option<Access> {
    let way = identity.ids()?.way(socket)?;
    let Some(last) = way.last else {
        return Some(Access::Groups(way.groups));
    };
    let owner = Identity {
        user: last.owner.clone(),
        ..Identity::default()
    };
    let may = |ids: Ids| !ids.uid.is_root() && ids.obstacle(socket).is_none();
    Some(match owner.ids().is_some_and(may) {
        true => Access::Owner(owner.user),
        false => Access::Nobody(last.to_string()),
    })
}

/// Returns whether the user of a service may read a file; none if that cannot be asked. Only root can ask.
pub(super) fn may_read(identity: &Identity, file: &Path) -> Option<bool> {
    identity.ids()?.may("-r", file)
}

/// What is in the way to a socket.
struct Way {
    first: Obstacle,
    /// The groups that get as far as can be.
    groups: Vec<String>,
    /// What no group would let pass.
    last: Option<Obstacle>,
}

impl Ids {
    fn way(mut self, socket: &Path) -> Option<Way> {
        let first = self.obstacle(socket)?;
        let (mut groups, mut last) = (Vec::new(), None);
        while let Some(obstacle) = self.obstacle(socket) {
            match obstacle.allowed.filter(|_| groups.len() < GROUPS_MAX) {
                Some(gid) if !self.groups.contains(&gid) => {
                    self.groups.push(gid);
                    groups.push(obstacle.group);
                }
                _ => {
                    last = Some(obstacle);
                    break;
                }
            }
        }
        Some(Way {
            first,
            groups,
            last,
        })
    }
}

/// Returns a line for a socket that the user of the service may not write to. Only root can ask.
pub(super) fn check(id: &str, identity: &Identity, socket: &Path) -> Option<Finding> {
    let way = identity.ids()?.way(socket)?;
    Some(finding(
        (id, identity),
        socket,
        &way.first,
        &way.groups,
        way.last.as_ref(),
    ))
}

/// `last`: what no group would let pass.
fn finding(
    (id, identity): (&str, &Identity),
    socket: &Path,
    first: &Obstacle,
    groups: &[String],
    last: Option<&Obstacle>,
) -> Finding {
    let user = match &*identity.user {
        "" => "root without capabilities",
        user => user,
    };
    if let Some(last) = last {
        let text = format!(
            "{id} runs as {user}, which may not {last}: give it to a group that may, as a server's SocketGroup= and \
             SocketMode=0660 do, or RuntimeDirectoryMode=0755 for a folder"
        );
        return Finding::new(Level::Fail, "target", text);
    }
    let is_of_root =
        (socket.file_name()).is_some_and(|name| OF_ROOT.iter().any(|known| name == *known));
    let warning = match is_of_root {
        true => {
            "; think twice: whoever comes in there is root on this machine, so say in VSOCK_BRIDGE_ALLOW_CID who may"
        }
        false => "",
    };
    let groups = groups.join(" ");
    let text = format!(
        "{id} runs as {user}, which may not {first}: it needs SupplementaryGroups={groups} in a drop-in{warning}"
    );
    let setting = format!("SupplementaryGroups={groups}");
    Finding::new(Level::Fail, "target", text).run_all(drop_in(id, "50-groups.conf", &setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(path: &str, group: &str, allowed: Option<u32>) -> Obstacle {
        Obstacle {
            path: path.into(),
            verb: "write to",
            owner: "root".to_owned(),
            group: group.to_owned(),
            mode: 0o660,
            allowed: allowed.map(Gid::from_raw),
        }
    }

    #[test]
    fn the_group_of_the_socket_is_offered_with_what_that_means() {
        let identity = Identity {
            user: "vsock-bridge".to_owned(),
            ..Identity::default()
        };
        let service = ("vsock-bridge@2375.service", &identity);
        let path = "/run/docker.sock";
        let first = obstacle(path, "docker", Some(7));
        let groups = ["docker".to_owned()];
        let found = finding(service, Path::new(path), &first, &groups, None);
        let begin = "vsock-bridge@2375.service runs as vsock-bridge, which may not write to /run/docker.sock, \
                     which is root:docker 0660: it needs SupplementaryGroups=docker in a drop-in; think twice";
        assert!(found.text.starts_with(begin), "{}", found.text);
        assert!(found.commands[1].contains(r"[Service]\nSupplementaryGroups=docker\n"));
        let other = Path::new("/run/app.sock");
        let found = finding(service, other, &first, &groups, None);
        assert!(found.text.ends_with("in a drop-in"), "{}", found.text);
    }

    #[test]
    fn what_no_group_may_do_has_no_command() {
        let identity = Identity::default();
        let service = ("vsock-bridge@80.service", &identity);
        let path = "/run/app.sock";
        let first = obstacle(path, "root", None);
        let found = finding(service, Path::new(path), &first, &[], Some(&first));
        assert_eq!((found.level, found.commands.len()), (Level::Fail, 0));
        assert!(found.text.contains("SocketGroup="), "{}", found.text);
    }
}
