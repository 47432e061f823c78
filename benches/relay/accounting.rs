//! What the relay uses: processor time, memory, descriptors. All of its processes count, and nothing but them.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Ticks of a second in /proc/PID/stat: USER_HZ, which is 100 on every architecture of Linux.
const TICKS_PER_SECOND: u64 = 100;

/// The fields of /proc/PID/stat that matter here (proc(5)).
struct Stat {
    pid: Pid,
    group: i32,
    own_ticks: u64,
    reaped_ticks: u64,
}

impl Stat {
    /// The name in parentheses may hold anything, so fields are counted after the last one.
    fn parse(text: &str) -> Option<Self> {
        let pid = text.split_whitespace().next()?.parse().ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            pid: Pid::from_raw(pid),
            group: fields.get(2)?.parse().ok()?,
            own_ticks: number(11)? + number(12)?,
            reaped_ticks: number(13)? + number(14)?,
        })
    }

    /// The process's own clock has nanoseconds and knows ended threads; a zombie has only ticks left.
    fn cpu_time(&self) -> Duration {
        let own = clock_getcpuclockid(self.pid)
            .and_then(clock_gettime)
            .map_or_else(|_| from_ticks(self.own_ticks), Duration::from);
        own + from_ticks(self.reaped_ticks)
    }
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// All processes of a process group; the ones that end meanwhile are skipped.
fn processes_of(group: Pid) -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
        })
        .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .filter(|stat| stat.group == group.as_raw())
        .collect()
}

/// Processor time that a relay has used since its start, its ended children included.
pub fn cpu_time(group: Pid) -> Duration {
    processes_of(group).iter().map(Stat::cpu_time).sum()
}

/// Processor time that this process has used.
pub fn own_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Processor time that the whole machine has used, interrupts and time taken by the host included (proc_stat(5)).
pub fn machine_cpu_time() -> Duration {
    const IDLE_AND_IOWAIT: [usize; 2] = [3, 4];
    const GUEST_IS_IN_USER: usize = 8;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let busy = fields
        .take(GUEST_IS_IN_USER)
        .enumerate()
        .filter(|(at, _)| !IDLE_AND_IOWAIT.contains(at));
    from_ticks(
        busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
            .sum(),
    )
}

/// Memory and descriptors of a relay at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    /// Resident memory of all its processes; shared pages count in each.
    pub rss_bytes: u64,
    /// Open descriptors of all its processes.
    pub descriptors: u64,
    /// The kernel's slab memory, of the whole system.
    pub slab_bytes: u64,
}

/// Looks now; without a relay only at the kernel.
pub fn footprint(group: Option<Pid>) -> Footprint {
    let mut sum = Footprint {
        slab_bytes: kilobytes_in("/proc/meminfo", "Slab:"),
        ..Footprint::default()
    };
    for stat in group.map(processes_of).unwrap_or_default() {
        let folder = format!("/proc/{}", stat.pid);
        sum.rss_bytes += kilobytes_in(&format!("{folder}/status"), "VmRSS:");
        sum.descriptors +=
            fs::read_dir(format!("{folder}/fd")).map_or(0, |entries| entries.count() as u64);
    }
    sum
}

fn kilobytes_in(path: &str, key: &str) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0)
        * 1024
}
