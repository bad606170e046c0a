//! How much memory running VMs get when they have agreed to less: shared out by weight, so that the node keeps some free.
//!
//! A VM takes part that has the option `balloon` (what it keeps in any case), a weight (`shares`) above 0, and a driver
//! that answers. The node's option `ballooning-target` says how many per cent of its memory may be in use. Only a plan is
//! made here; nothing is asked and nothing is changed. (PVE: pve-manager pvestatd.pm, AutoBalloon.pm)

use crate::Vmid;

const MIB: u64 = 1 << 20;
/// What is not worth a change.
const SLACK: u64 = 10 * MIB;
/// The most that a VM gains or loses at a time.
const STEP: u64 = 100 * MIB;

/// A VM that takes part; all sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Its number.
    pub vmid: Vmid,
    /// What it has now.
    pub now: u64,
    /// What it keeps in any case.
    pub least: u64,
    /// What it has been configured with.
    pub most: u64,
    /// Its weight, above 0.
    pub shares: u64,
    /// What it says is free inside.
    pub free: Option<u64>,
}

impl Guest {
    /// Whether it can do without some of what it has.
    fn is_comfortable(&self) -> bool {
        self.now >= self.least && self.free.is_some_and(|free| free > self.least / 4)
    }
}

/// What the node has to give away, or, below 0, wants back.
#[must_use]
pub fn goal(total: u64, used: u64, target_percent: u64) -> i64 {
    (total / 100 * target_percent).cast_signed() - used.cast_signed()
}

/// What VMs are to have next; those that are not named keep what they have. Who is short goes first when there is something
/// to give, who has plenty when something is wanted back.
#[must_use]
pub fn plan(guests: &[Guest], goal: i64) -> Vec<(Vmid, u64)> {
    if goal.unsigned_abs() <= SLACK {
        return Vec::new();
    }
    let first: Vec<Guest> = guests.iter().filter(|guest| guest.is_comfortable() == (goal < 0)).copied().collect();
    let changes = share(&first, goal);
    if changes.is_empty() { share(guests, goal) } else { changes }
}

/// One step of each towards its share.
fn share(guests: &[Guest], goal: i64) -> Vec<(Vmid, u64)> {
    let wanted = shares(guests, goal);
    let step = |(guest, wanted): (&Guest, u64)| {
        let next = wanted.clamp(guest.now.saturating_sub(STEP), guest.now + STEP);
        // Nobody gains while the node wants something back.
        (next != guest.now && (goal > 0 || next < guest.now)).then_some((guest.vmid, next))
    };
    guests.iter().zip(wanted).filter_map(step).collect()
}

/// What each should have: its least and, by weight, a part of the rest. What one cannot take goes to the others.
fn shares(guests: &[Guest], goal: i64) -> Vec<u64> {
    let above: i64 = guests.iter().map(|guest| guest.now.cast_signed() - guest.least.cast_signed()).sum();
    let mut rest = u64::try_from(above.saturating_add(goal)).unwrap_or(0);
    let mut settled: Vec<Option<u64>> = vec![None; guests.len()];
    loop {
        let open = || guests.iter().zip(&settled).filter(|(_, settled)| settled.is_none());
        let weights: u64 = open().map(|(guest, _)| guest.shares).sum();
        let part = |guest: &Guest| {
            let part = u128::from(rest) * u128::from(guest.shares) / u128::from(weights.max(1));
            guest.least.saturating_add(u64::try_from(part).unwrap_or(u64::MAX))
        };
        let full = guests.iter().enumerate().find(|(at, guest)| settled[*at].is_none() && part(guest) >= guest.most);
        let Some((at, guest)) = full else {
            return guests
                .iter()
                .zip(&settled)
                .map(|(guest, settled)| settled.unwrap_or_else(|| part(guest)))
                .collect();
        };
        rest = rest.saturating_sub(guest.most.saturating_sub(guest.least));
        settled[at] = Some(guest.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guest(vmid: u32, now: u64, least: u64, most: u64, shares: u64, free: u64) -> Guest {
        let vmid = vmid.to_string().parse().unwrap();
        Guest { vmid, now: now * MIB, least: least * MIB, most: most * MIB, shares, free: Some(free * MIB) }
    }

    fn planned(guests: &[Guest], goal: i64) -> Vec<(u32, u64)> {
        let plan = plan(guests, goal * MIB.cast_signed());
        plan.into_iter().map(|(vmid, bytes)| (vmid.number(), bytes / MIB)).collect()
    }

    #[test]
    fn who_has_plenty_gives_first_and_step_by_step() {
        let guests = [guest(100, 2048, 512, 2048, 1000, 1500), guest(101, 2048, 512, 2048, 1000, 10)];
        assert_eq!(planned(&guests, -50), [(100, 1998)]);
        assert_eq!(planned(&guests, -5000), [(100, 1948)]);
        // Nobody has plenty: all give.
        assert_eq!(planned(&guests[1..], -5000), [(101, 1948)]);
        assert_eq!(planned(&guests, -10), []);
    }

    #[test]
    fn what_is_given_goes_by_weight_and_by_need() {
        let guests = [guest(100, 512, 512, 2048, 3000, 0), guest(101, 512, 512, 2048, 1000, 0)];
        assert_eq!(planned(&guests, 80), [(100, 572), (101, 532)]);
        assert_eq!(planned(&guests, 8000), [(100, 612), (101, 612)]);
        // One that cannot take more leaves its part to the other.
        let guests = [guest(100, 530, 512, 532, 3000, 0), guest(101, 512, 512, 2048, 1000, 0)];
        assert_eq!(planned(&guests, 62), [(100, 532), (101, 572)]);
        assert_eq!(planned(&[guest(100, 2048, 512, 2048, 1000, 0)], 500), []);
    }

    #[test]
    fn the_goal_is_what_is_left_below_the_target() {
        assert_eq!(goal(1000, 500, 80), 300);
        assert_eq!(goal(1000, 900, 80), -100);
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_its_least_or_more_than_it_has_been_given(
            sizes in prop::collection::vec((64_u64..4096, 0_u64..4096, 0_u64..4096, 1_u64..50_000, 0_u64..4096), 0..6),
            goal in -20_000_i64..20_000,
        ) {
            let guests: Vec<Guest> = sizes.iter().zip(100..).map(|(&(least, more, now, shares, free), vmid)| {
                guest(vmid, least + now.min(more), least, least + more, shares, free)
            }).collect();
            let plan = plan(&guests, goal * MIB.cast_signed());
            for (vmid, bytes) in plan {
                let guest = guests.iter().find(|guest| guest.vmid == vmid).unwrap();
                prop_assert!(bytes >= guest.least && bytes <= guest.most && bytes.abs_diff(guest.now) <= STEP);
            }
        }
    }
}
