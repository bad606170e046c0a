//! The machine's own load, from `/proc`. (PVE: pve-common PVE/ProcFSTools.pm)

use super::history::Sample;
use super::pressure::Pressure;
use std::fs;
use std::time::{Duration, Instant};

/// Shorter spans say nothing about load; the last value stands meanwhile.
const SPAN: Duration = Duration::from_secs(1);

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All.
    pub total: u64,
    /// In use by nobody.
    pub free: u64,
    /// What a new program could have without swapping.
    pub available: u64,
    /// All swap.
    pub swap_total: u64,
    /// Unused swap.
    pub swap_free: u64,
}

impl Memory {
    /// As of now.
    pub fn read() -> Self {
        Memory::parse(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Memory {
            total: value("MemTotal"),
            free: value("MemFree"),
            available: value("MemAvailable"),
            swap_total: value("SwapTotal"),
            swap_free: value("SwapFree"),
        }
    }

    /// What is in use.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

/// Space of a file system in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Space {
    /// All.
    pub total: u64,
    /// In use.
    pub used: u64,
    /// What anybody may still take.
    pub available: u64,
}

impl Space {
    /// Of the file system that holds the root directory.
    pub fn of_root() -> Self {
        let Ok(stat) = rustix::fs::statvfs("/") else { return Space::default() };
        Space {
            total: stat.f_blocks * stat.f_frsize,
            used: stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
            available: stat.f_bavail * stat.f_frsize,
        }
    }
}

/// Seconds since the boot, and those that the processors were idle, summed up.
pub fn uptime() -> (f64, f64) {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0.0));
    (numbers.next().unwrap_or(0.0), numbers.next().unwrap_or(0.0))
}

/// The load averages of 1, 5 and 15 minutes, as text.
pub fn load() -> Vec<String> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut load: Vec<String> = text.split_ascii_whitespace().take(3).map(str::to_owned).collect();
    load.resize(3, "0.00".into());
    load
}

/// What is remembered of the node for graphs. (PVE: pve-manager PVE/Service/pvestatd.pm, update_node_status)
pub fn sample(load: CpuLoad) -> Sample {
    let (memory, space, pressure) = (Memory::read(), Space::of_root(), Pressure::of_node());
    let (received, sent) = traffic();
    vec![
        ("loadavg", self::load()[0].parse().unwrap_or(0.0)),
        ("maxcpu", cpu_count() as f64),
        ("cpu", load.used),
        ("iowait", load.waiting),
        ("memtotal", memory.total as f64),
        ("memused", memory.used() as f64),
        ("memavailable", memory.available as f64),
        ("swaptotal", memory.swap_total as f64),
        ("swapused", memory.swap_total.saturating_sub(memory.swap_free) as f64),
        ("roottotal", space.total as f64),
        ("rootused", space.used as f64),
        ("netin", received as f64),
        ("netout", sent as f64),
        ("arcsize", 0.0),
        ("pressurecpusome", pressure.cpu_some),
        ("pressureiosome", pressure.io_some),
        ("pressureiofull", pressure.io_full),
        ("pressurememorysome", pressure.memory_some),
        ("pressurememoryfull", pressure.memory_full),
    ]
}

/// Bytes that the node's own cards received and sent.
fn traffic() -> (u64, u64) {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let cards = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| {
        // Only what stands for a device of the machine has one.
        fs::exists(format!("/sys/class/net/{}/device", name.trim())).unwrap_or(false)
    });
    cards.fold((0, 0), |(received, sent), (_, numbers)| {
        let number = |at: usize| numbers.split_ascii_whitespace().nth(at).and_then(|text| text.parse::<u64>().ok());
        (received + number(0).unwrap_or(0), sent + number(8).unwrap_or(0))
    })
}

/// Processors that are there.
pub fn cpu_count() -> usize {
    // Asked for each row of a list: one system call, no file.
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count().max(1) as usize)
}

/// Shares of time that all processors together have spent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuLoad {
    /// Working, 0 to 1.
    pub used: f64,
    /// Waiting for devices, 0 to 1.
    pub waiting: f64,
}

/// Measures [`CpuLoad`] between two looks.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Option<(Instant, Ticks)>,
    load: CpuLoad,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    used: u64,
    waiting: u64,
    all: u64,
}

impl CpuMeter {
    /// The load since the last look that was long enough ago; 0 at the first.
    pub fn load(&mut self) -> CpuLoad {
        let now = Instant::now();
        match self.last {
            Some((then, _)) if now - then < SPAN => {}
            Some((_, before)) => {
                let ticks = Ticks::read();
                self.load = ticks.since(before);
                self.last = Some((now, ticks));
            }
            None => self.last = Some((now, Ticks::read())),
        }
        self.load
    }
}

impl Ticks {
    fn read() -> Self {
        Ticks::parse(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// The line `cpu user nice system idle iowait irq softirq steal …`; time in guests is part of user time.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let numbers: Vec<u64> = line.split_ascii_whitespace().take(8).filter_map(|text| text.parse().ok()).collect();
        let [user, nice, system, idle, waiting, irq, soft_irq, steal] = numbers[..] else { return None };
        let used = user + nice + system + irq + soft_irq + steal;
        Some(Ticks { used, waiting, all: used + idle + waiting })
    }

    fn since(self, before: Ticks) -> CpuLoad {
        let all = self.all.saturating_sub(before.all);
        if all == 0 {
            return CpuLoad::default();
        }
        let share = |now: u64, then: u64| (now.saturating_sub(then) as f64 / all as f64).min(1.0);
        CpuLoad { used: share(self.used, before.used), waiting: share(self.waiting, before.waiting) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_the_share_of_used_time() {
        let before = Ticks::parse("cpu  10 0 10 70 10 0 0 0 5 0\n").unwrap();
        let after = Ticks::parse("cpu  30 0 20 130 20 0 0 0 5 0\n").unwrap();
        assert_eq!(after.since(before), CpuLoad { used: 0.3, waiting: 0.1 });
        assert_eq!(after.since(after), CpuLoad::default());
        assert!(Ticks::read().all > 0);
    }

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        let memory = Memory::parse("MemTotal:  100 kB\nMemFree: 10 kB\nMemAvailable:   60 kB\nSwapTotal: 0 kB\n");
        assert_eq!((memory.total, memory.free, memory.used()), (102_400, 10_240, 40_960));
    }
}
