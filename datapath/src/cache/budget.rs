//! How much of a core's time misses may take.
//!
//! A packet whose megaflow is not known costs a hundred times one whose
//! megaflow is. Whoever makes up headers must not slow down those who do not:
//! while there are packets with known megaflows, and no time to spare, misses
//! get a share of the time and no more; what exceeds it is dropped under
//! `upcall_limit`. With time to spare, or no traffic to protect, misses get
//! all the time that they need.
//!
//! The share is divided among the ports that have misses: one that makes up
//! headers uses up its own part, and others' new flows still find time.

/// Misses get one part in so many of a busy core's time.
const SHARE: u64 = 16;

/// What may be saved up, in cycles: some hundred translations in a row.
const MOST: i64 = 1 << 20;

/// What one miss is charged with at most, in cycles: what is beyond it is a
/// core that was taken away from its thread meanwhile, by another process or by
/// the hypervisor, which is no doing of the port.
const DEAREST: u64 = 1 << 17;

/// Known packets in a window that count as traffic to be protected.
const TRAFFIC: u32 = 64;
/// Cycles of a window.
const WINDOW: u64 = 1 << 21;
/// Windows for which traffic is protected after it was last seen, some 25 ms:
/// traffic that waits for what was dropped must find room when it comes back.
const REMEMBERED: u32 = 32;

/// Accounts: one for each port that there can be.
const ACCOUNTS: usize = crate::snapshot::MAX_PORTS;

/// A port's part.
#[derive(Clone, Copy, Default)]
struct Account {
    cycles: i64,
    /// What had been earned when it was last looked at.
    seen: u64,
    /// The last window in which there were misses.
    window: u32,
}

/// A core's accounts of time for misses.
pub struct Budget {
    accounts: Box<[Account; ACCOUNTS]>,
    /// Cycles that each account has earned so far.
    earned: u64,
    /// Which window this is.
    window: u32,
    /// Accounts with misses in it.
    missing: u64,
    /// How many there were in the last.
    sharers: u64,
    known: u32,
    window_end: u64,
    /// Windows for which traffic is still to be protected.
    protect: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            accounts: Box::new([Account::default(); ACCOUNTS]),
            earned: 0,
            window: 1,
            missing: 0,
            sharers: 1,
            known: 0,
            window_end: 0,
            protect: 0,
        }
    }
}

impl Budget {
    /// So many packets were known.
    #[inline(always)]
    pub fn known(&mut self, packets: u32) {
        self.known = self.known.saturating_add(packets);
    }

    /// Whether a miss of this port may be translated.
    #[inline(always)]
    pub fn allows(&mut self, port: u16) -> bool {
        self.protect == 0 || self.account(port).cycles > 0
    }

    /// A port's account as it is now.
    fn account(&mut self, port: u16) -> &mut Account {
        let account = &mut self.accounts[usize::from(port) % ACCOUNTS];
        if account.window != self.window {
            account.window = self.window;
            self.missing += 1;
        }
        let more = self.earned - account.seen;
        account.seen = self.earned;
        account.cycles = account.cycles.saturating_add_unsigned(more).min(MOST);
        account
    }

    /// Misses of a port took so many cycles.
    pub fn spend(&mut self, port: u16, cycles: u64) {
        let account = self.account(port);
        let charged = cycles.min(DEAREST);
        account.cycles = account.cycles.saturating_sub_unsigned(charged).max(-MOST);
    }

    /// A poll took `cycles`; `busy`: it brought packets.
    #[inline(always)]
    pub fn poll(&mut self, now: u64, cycles: u64, busy: bool) {
        self.earned += match busy {
            true => cycles / (SHARE * self.sharers),
            false => cycles,
        };
        if now >= self.window_end {
            self.next_window(now);
        }
    }

    #[inline(never)]
    fn next_window(&mut self, now: u64) {
        self.protect = match self.known >= TRAFFIC {
            true => REMEMBERED,
            false => self.protect.saturating_sub(1),
        };
        self.known = 0;
        self.sharers = self.missing.max(1);
        self.missing = 0;
        self.window = self.window.wrapping_add(1);
        self.window_end = now + WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Translates as often as allowed for a while; returns the shares of time
    /// that the ports' misses took.
    fn shares<const PORTS: usize>(known_per_poll: u32, idle: bool) -> [f64; PORTS] {
        let (mut budget, mut now, mut spent) = (Budget::default(), 0u64, [0u64; PORTS]);
        for round in 0..100_000 {
            let mut cycles = 1_000;
            budget.known(known_per_poll);
            let port = round % PORTS;
            for _ in 0..32 {
                if budget.allows(port as u16) {
                    budget.spend(port as u16, 2_500);
                    cycles += 2_500;
                }
            }
            now += cycles;
            spent[port] += cycles - 1_000;
            budget.poll(now, cycles, true);
            if idle {
                now += 100_000;
                budget.poll(now, 100_000, false);
            }
        }
        spent.map(|spent| spent as f64 / now as f64)
    }

    #[test]
    fn misses_take_a_share_only_while_there_is_traffic_and_no_time_to_spare() {
        assert!(shares::<1>(32, false)[0] < 1.2 / SHARE as f64);
        assert!(shares::<1>(0, false)[0] > 0.9);
        assert!(shares::<1>(32, true)[0] > 0.4);
    }

    #[test]
    fn a_port_does_not_pay_for_a_core_that_was_taken_away() {
        let mut budget = Budget::default();
        budget.poll(0, 10 * MOST.unsigned_abs(), false);
        budget.known(TRAFFIC);
        budget.poll(WINDOW, 1_000, true);
        budget.spend(1, 100 * MOST.unsigned_abs());
        assert!(budget.protect > 0 && budget.allows(1));
    }

    /// Those who do nothing but miss, as often as they can, beside one that sets
    /// up a flow now and then.
    #[test]
    fn one_with_few_misses_loses_none_beside_those_who_only_miss() {
        for attackers in [1u16, 8, 60] {
            let (mut budget, mut now) = (Budget::default(), 0u64);
            let (mut refused, mut lost, mut asked) = (0, 0, 0);
            for round in 0..200_000u64 {
                let mut cycles = 1_000;
                budget.known(32);
                let mut miss = |port: u16, budget: &mut Budget| {
                    let allowed = budget.allows(port);
                    if allowed {
                        budget.spend(port, 2_500);
                        cycles += 2_500;
                    }
                    allowed
                };
                // Port 65 shared an account with port 1 once.
                let port = 1 + (round % u64::from(attackers)) as u16;
                for _ in 0..32 {
                    refused += u64::from(!miss(port, &mut budget));
                }
                // A hundred times less than its part: some 5,000 a second of one
                // attacker's core.
                if round % (u64::from(attackers) * 400) == 399 {
                    asked += 1;
                    lost += u64::from(!miss(65, &mut budget));
                }
                now += cycles;
                budget.poll(now, cycles, true);
            }
            assert!(refused > 1_000_000, "{attackers} attackers: {refused}");
            assert!(
                asked > 0 && lost == 0,
                "{attackers} attackers: {lost} of {asked}"
            );
        }
    }

    #[test]
    fn ports_with_misses_have_equal_parts() {
        let shares = shares::<3>(32, false);
        assert!(shares.iter().sum::<f64>() < 1.2 / SHARE as f64);
        for share in shares {
            assert!(share > 0.8 / (3 * SHARE) as f64, "{shares:?}");
        }
    }
}
