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

/// Accounts; ports whose numbers differ by a multiple share one.
const ACCOUNTS: usize = 64;

/// A port's part.
#[derive(Clone, Copy, Default)]
struct Account {
    cycles: i64,
    /// What had been earned when it was last looked at.
    seen: u64,
}

/// A core's accounts of time for misses.
pub struct Budget {
    accounts: [Account; ACCOUNTS],
    /// Cycles that each account has earned so far.
    earned: u64,
    /// Accounts with misses in this window, a bit each.
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
            accounts: [Account::default(); ACCOUNTS],
            earned: 0,
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
        let place = usize::from(port) % ACCOUNTS;
        self.missing |= 1 << place;
        let account = &mut self.accounts[place];
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
            self.window(now);
        }
    }

    #[inline(never)]
    fn window(&mut self, now: u64) {
        self.protect = match self.known >= TRAFFIC {
            true => REMEMBERED,
            false => self.protect.saturating_sub(1),
        };
        self.known = 0;
        self.sharers = u64::from(self.missing.count_ones().max(1));
        self.missing = 0;
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

    #[test]
    fn ports_with_misses_have_equal_parts() {
        let shares = shares::<3>(32, false);
        assert!(shares.iter().sum::<f64>() < 1.2 / SHARE as f64);
        for share in shares {
            assert!(share > 0.8 / (3 * SHARE) as f64, "{shares:?}");
        }
    }
}
