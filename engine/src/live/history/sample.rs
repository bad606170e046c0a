//! From samples to the mean of each minute.

use super::Row;

/// Samples further apart say nothing about the time between them.
const GAP: i64 = 120;
/// Minutes kept at most, if they cannot be written.
const KEPT: usize = 120;

/// What is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The node.
    Node,
    /// A VM or container.
    Guest,
    /// A storage.
    Storage,
}

const NODE: [&str; 19] = [
    "loadavg",
    "maxcpu",
    "cpu",
    "iowait",
    "memtotal",
    "memused",
    "swaptotal",
    "swapused",
    "roottotal",
    "rootused",
    "netin",
    "netout",
    "memavailable",
    "arcsize",
    "pressurecpusome",
    "pressureiosome",
    "pressureiofull",
    "pressurememorysome",
    "pressurememoryfull",
];
const GUEST: [&str; 17] = [
    "maxcpu",
    "cpu",
    "maxmem",
    "mem",
    "maxdisk",
    "disk",
    "netin",
    "netout",
    "diskread",
    "diskwrite",
    "memhost",
    "pressurecpusome",
    "pressurecpufull",
    "pressureiosome",
    "pressureiofull",
    "pressurememorysome",
    "pressurememoryfull",
];
const STORAGE: [&str; 2] = ["total", "used"];

impl Kind {
    /// The names of the values, as clients know them.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Kind::Node => &NODE,
            Kind::Guest => &GUEST,
            Kind::Storage => &STORAGE,
        }
    }

    /// The directory of its files.
    pub fn directory(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Guest => "vm",
            Kind::Storage => "storage",
        }
    }

    /// Whether a value only grows, so that its growth per second is what counts.
    fn is_counter(name: &str) -> bool {
        matches!(name, "netin" | "netout" | "diskread" | "diskwrite")
    }
}

/// Values by name; what is missing is unknown.
pub type Sample = Vec<(&'static str, f64)>;

/// The minute that is being measured, and those before it that nobody has written yet.
#[derive(Debug)]
pub struct Minute {
    kind: Kind,
    begin: i64,
    /// Sum and number of what was measured, by name.
    sums: Vec<(f64, u32)>,
    /// When, and the last state of each counter.
    last: Option<(i64, Vec<f64>)>,
    finished: Vec<Row>,
}

impl Minute {
    /// Nothing measured yet.
    pub fn new(kind: Kind) -> Self {
        Minute { kind, begin: 0, sums: vec![(0.0, 0); kind.names().len()], last: None, finished: Vec::new() }
    }

    /// Takes a sample over.
    pub fn add(&mut self, now: i64, sample: &Sample) {
        self.finish(now);
        let names = self.kind.names();
        let mut states = vec![f64::NAN; names.len()];
        for (name, value) in sample {
            if let Some(at) = names.iter().position(|known| known == name) {
                states[at] = *value;
            }
        }
        let before = self.last.as_ref().filter(|(time, _)| (1..=GAP).contains(&(now - time)));
        for (at, state) in states.iter().enumerate() {
            let value = match before {
                _ if !Kind::is_counter(names[at]) => *state,
                Some((time, before)) if *state >= before[at] => (state - before[at]) / (now - time) as f64,
                _ => f64::NAN,
            };
            if !value.is_nan() {
                self.sums[at] = (self.sums[at].0 + value, self.sums[at].1 + 1);
            }
        }
        self.last = Some((now, states));
    }

    /// Ends the minute if it is over.
    fn finish(&mut self, now: i64) {
        let begin = now.div_euclid(60) * 60;
        if begin == self.begin {
            return;
        }
        let sums = std::mem::replace(&mut self.sums, vec![(0.0, 0); self.kind.names().len()]);
        if sums.iter().any(|(_, count)| *count > 0) {
            let mean = |(sum, count): &(f64, u32)| if *count > 0 { sum / f64::from(*count) } else { f64::NAN };
            self.finished.push(Row { time: self.begin, values: sums.iter().map(mean).collect() });
            let excess = self.finished.len().saturating_sub(KEPT);
            self.finished.drain(..excess);
        }
        self.begin = begin;
    }

    /// The minutes that are over, to be written.
    pub fn take_finished(&mut self, now: i64) -> Vec<Row> {
        self.finish(now);
        std::mem::take(&mut self.finished)
    }
}
