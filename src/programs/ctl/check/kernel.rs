//! Kernels that are known to lose or refuse vsock connections.
//!
//! Only what stable releases say of themselves; a distribution may have repaired its kernel under an older number, and
//! is then warned of in vain. Sources are at the rows.

use std::fs;

use super::finding::Finding;

/// What is wrong with a range of releases.
struct Flaw {
    /// Major and minor number of the series.
    series: (u32, u32),
    /// The first release of the series that has it.
    from: u32,
    /// The first one that has it no more; none if the series ended with it.
    fixed: Option<u32>,
    effect: Effect,
}

#[derive(Clone, Copy)]
enum Effect {
    /// Commit 059b7dbd20a6 (CVE-2026-53132) counts the overhead of each packet against the buffer, which the other end
    /// does not know of; 2a12c05aef21, "collapse receive queue under memory pressure", makes room. Both are in the
    /// ChangeLogs of these releases, and in Debian's changelog of linux 6.12.117-1.
    SmallPackets,
    /// CVE-2026-46214, commit 52bcb57a4e8a: refused connections stay counted as waiting. In the ChangeLogs of these
    /// releases, and in Debian's changelogs of linux 6.1.187-1 and 6.12.117-1.
    FullQueue,
}

const FLAWS: [Flaw; 6] = [
    flaw((6, 12), 94, Some(101), Effect::SmallPackets),
    flaw((6, 18), 36, Some(42), Effect::SmallPackets),
    flaw((7, 0), 13, None, Effect::SmallPackets),
    flaw((7, 1), 0, Some(6), Effect::SmallPackets),
    flaw((6, 1), 0, Some(175), Effect::FullQueue),
    flaw((6, 12), 0, Some(90), Effect::FullQueue),
];

const fn flaw(series: (u32, u32), from: u32, fixed: Option<u32>, effect: Effect) -> Flaw {
    Flaw {
        series,
        from,
        fixed,
        effect,
    }
}

/// Reads what proc(5) says of the kernel.
pub(super) fn version() -> String {
    fs::read_to_string("/proc/version").unwrap_or_default()
}

/// Looks the kernel up; `version` is the text of /proc/version.
pub(super) fn check(version: &str) -> Finding {
    let Some(release) = release(version) else {
        return Finding::warn("kernel", "its version cannot be read from /proc/version");
    };
    let Some((major, minor, patch)) = numbers(release) else {
        return Finding::ok(
            "kernel",
            format!("{release} is no number that anything is known of"),
        );
    };
    let has = |flaw: &&Flaw| {
        flaw.series == (major, minor) && patch >= flaw.from && flaw.fixed.is_none_or(|f| patch < f)
    };
    match FLAWS.iter().find(has) {
        Some(flaw) => Finding::warn("kernel", format!("Linux {release} {}", flaw.text())),
        None => Finding::ok(
            "kernel",
            format!("Linux {release} is not known to lose vsock connections"),
        ),
    }
}

impl Flaw {
    fn text(&self) -> String {
        let (major, minor) = self.series;
        let upgrade = match self.fixed {
            Some(patch) => format!("upgrade it to {major}.{minor}.{patch} or newer"),
            None => "upgrade it to a newer series".to_owned(),
        };
        match self.effect {
            Effect::SmallPackets => format!(
                "resets vsock connections that carry many small packets: {upgrade}; until then set \
                 VSOCK_BRIDGE_VSOCK_BUFFER=8MiB in /etc/vsock-bridge/vsock-bridge.conf"
            ),
            Effect::FullQueue => {
                format!("can come to refuse all connections to a vsock port: {upgrade}")
            }
        }
    }
}

/// Finds the release: Debian's own number, which alone tells the stable release under a name such as `6.1.0-37-amd64`,
/// else the name.
fn release(version: &str) -> Option<&str> {
    let mut words = version.split_whitespace();
    let debian = version
        .rsplit_once(" Debian ")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    debian.or_else(|| words.nth(2))
}

/// Reads `6.12.94-1`, `6.18.42-1-lts` or `7.1.0`; what follows the third number is not looked at.
fn numbers(release: &str) -> Option<(u32, u32, u32)> {
    let mut parts = release.splitn(3, '.');
    let mut number = || {
        let part = parts.next()?;
        let digits = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        part[..digits].parse::<u32>().ok()
    };
    Some((number()?, number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn named(release: &str) -> String {
        format!("Linux version {release} (builder@host) (gcc 15) #1 SMP @0\n")
    }

    fn debian(name: &str, release: &str) -> String {
        format!(
            "Linux version {name} (debian-kernel@lists.debian.org) (gcc-14) #1 SMP PREEMPT_DYNAMIC Debian {release} (2026-06-20)\n"
        )
    }

    #[test]
    fn kernels_that_reset_or_refuse_are_named_with_the_release_that_does_not() {
        for (version, release, fixed) in [
            (named("6.12.94"), "6.12.94", "6.12.101"),
            (named("6.12.100-1-lts"), "6.12.100-1-lts", "6.12.101"),
            (
                debian("6.12.94+deb13-amd64", "6.12.94-1"),
                "6.12.94-1",
                "6.12.101",
            ),
            (
                debian("6.1.0-37-amd64", "6.1.140-1"),
                "6.1.140-1",
                "6.1.175",
            ),
            (named("6.12.89"), "6.12.89", "6.12.90"),
            (named("6.18.41"), "6.18.41", "6.18.42"),
            (named("7.1.0-rc7"), "7.1.0-rc7", "7.1.6"),
            (named("7.0.13-200.fc44"), "7.0.13-200.fc44", "newer series"),
        ] {
            let finding = check(&version);
            assert_eq!(finding.level, Level::Warn, "{version}");
            assert!(
                finding.text.contains(release) && finding.text.contains(fixed),
                "{version}: {}",
                finding.text
            );
        }
    }

    #[test]
    fn other_kernels_are_well() {
        for version in [
            named("6.12.90"),
            named("6.12.93"),
            named("6.12.101"),
            named("6.18.35"),
            named("6.18.42"),
            named("7.0.12"),
            named("7.1.6"),
            named("7.2.0-rc1"),
            named("6.8.0-51-generic"),
            named("5.14.0-503.el9.x86_64"),
            named("6.1"),
            debian("6.1.0-45-amd64", "6.1.187-1"),
            debian("6.12.117+deb13-cloud-amd64", "6.12.117-1"),
        ] {
            assert_eq!(check(&version).level, Level::Ok, "{version}");
        }
    }

    #[test]
    fn no_version_is_a_warning() {
        assert_eq!(check("").level, Level::Warn);
        assert_eq!(check("Linux").level, Level::Warn);
    }
}
