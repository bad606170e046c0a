//! Figures: samples, percentiles, and the table that `cargo xtask bench` prints.

use std::time::{Duration, Instant};

/// Between two steps that are done by turns.
const REST: Duration = Duration::from_millis(100);

/// Times of the same thing done several times, sorted.
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Does something `count` times.
    pub fn of(count: usize, mut once: impl FnMut()) -> Self {
        let time = |_| {
            let start = Instant::now();
            once();
            start.elapsed()
        };
        Samples::new((0..count).map(time).collect())
    }

    /// Times that were taken elsewhere.
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Samples(times)
    }

    /// Does steps by turns, `count` rounds of them, so that what else the machine does meets all alike; one sample per step.
    /// Each begins on a machine at rest, not with what the kernel still tidies away after the step before: a namespace, or
    /// a grace period that makes the next move between control groups cheaper or dearer by several milliseconds.
    pub fn by_turns<const STEPS: usize>(count: usize, mut steps: [&mut dyn FnMut(); STEPS]) -> [Self; STEPS] {
        let mut times = [(); STEPS].map(|()| Vec::with_capacity(count));
        for _ in 0..count {
            for (step, times) in steps.iter_mut().zip(&mut times) {
                std::thread::sleep(REST);
                let start = Instant::now();
                step();
                times.push(start.elapsed());
            }
        }
        times.map(Samples::new)
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.0[self.0.len() - 1]
    }

    /// The median.
    pub fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }
}

/// One line of the table.
pub struct Row {
    what: String,
    ours: String,
    beside: String,
    budget: String,
    within: bool,
}

/// All lines, printed as they come.
#[derive(Default)]
pub struct Table {
    missed: usize,
}

impl Table {
    /// The head of the table.
    pub fn new() -> Self {
        println!("{:<46} {:>14} {:>26} {:>14}", "what", "ours", "beside it, same run", "budget");
        Table::default()
    }

    /// Adds a line.
    pub fn add(&mut self, row: &Row) {
        let mark = if row.within { "" } else { "  MISSED" };
        println!("{:<46} {:>14} {:>26} {:>14}{mark}", row.what, row.ours, row.beside, row.budget);
        self.missed += usize::from(!row.within);
    }

    /// How many budgets were missed.
    pub fn missed(&self) -> usize {
        self.missed
    }
}

impl Row {
    /// A time that must stay below its budget.
    pub fn time(what: &str, ours: Duration, beside: (&str, Duration), budget: Duration) -> Self {
        Row {
            what: what.to_owned(),
            ours: show(ours),
            beside: format!("{} {}", beside.0, show(beside.1)),
            budget: format!("< {}", show(budget)),
            within: ours < budget,
        }
    }

    /// A time that may be longer than the raw tool's by a budget.
    pub fn more(what: &str, ours: Duration, raw: (&str, Duration), budget: Duration) -> Self {
        let more = ours.saturating_sub(raw.1);
        Row {
            what: what.to_owned(),
            ours: format!("{} (+{})", show(ours), show(more)),
            beside: format!("{} {}", raw.0, show(raw.1)),
            budget: format!("< +{}", show(budget)),
            within: more < budget,
        }
    }

    /// A number with a unit and a bound; `least` says that more is better.
    pub fn number(what: &str, ours: f64, unit: &str, beside: String, budget: f64, least: bool) -> Self {
        Row {
            what: what.to_owned(),
            ours: format!("{ours:.1} {unit}"),
            beside,
            budget: format!("{} {budget} {unit}", if least { ">" } else { "<" }),
            within: if least { ours > budget } else { ours < budget },
        }
    }
}

fn show(time: Duration) -> String {
    let micros = time.as_micros();
    if micros < 10_000 { format!("{:.2} ms", micros as f64 / 1e3) } else { format!("{:.0} ms", micros as f64 / 1e3) }
}
