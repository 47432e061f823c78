//! `vsockctl prefix watch`: asks for the route and the addresses of the prefix to be put back when they are gone.
//!
//! Network managers flush lo and remove routes that they do not know. Putting them back needs a capability, which a
//! program that runs for ever is not to have. So this one has none and writes a file, for which a path unit of systemd
//! starts `vsockctl prefix up`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::notify;
use crate::prefix::Prefix;
use crate::programs::pace;
use crate::route::{self, Watch};

/// The file in the service's folder; vsock-bridge-prefix-restore.path has its name.
const FILE: &str = "lost";
/// Until what is still missing, or is taken away again and again, is asked for once more; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest of these.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// After that long, another loss has nothing to do with the one before.
const CALM: Duration = Duration::from_secs(600);

/// Watches until it is stopped. `found`: the prefix that is looked for while none is in place.
///
/// Errors: [`Error::Usage`] without a folder for the file; [`Error::Route`]; a file when nothing can be written.
pub(super) fn run(found: Prefix) -> Result<()> {
    let folder = pace::folder().ok_or_else(|| {
        Error::Usage(
            "`prefix watch` writes its file into RUNTIME_DIRECTORY, which is not set: start vsock-bridge-prefix-watch.service"
                .to_owned(),
        )
    })?;
    let prefix = route::in_place()?.unwrap_or(found);
    let watch = Watch::open(prefix)?;
    notify::ready();
    let (mut pause, mut asked, mut due) = (PAUSE, None, Moment::now());
    loop {
        let Some(what) = route::missing(prefix)? else {
            watch.wait(None)?;
            continue;
        };
        let now = Moment::now();
        if now < due {
            watch.wait(Some(due - now))?;
            continue;
        }
        log::warn!(
            "{what} is gone: something else has removed it, such as a network manager; asking for it to be added again"
        );
        ask(&folder)?;
        pause = match asked {
            Some(at) if now - at < CALM => PAUSE_MAX.min(pause * 2),
            _ => PAUSE,
        };
        (asked, due) = (Some(now), now + pause);
    }
}

fn ask(folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    fs::write(&path, "").map_err(Error::file("write", &path))
}
