//! Where the device stands in a packed ring that another process left behind.
//!
//! The frontend's base is right after an orderly stop. After a crash it is where
//! the ring once began, and the ring itself must tell. What it tells:
//!
//! - AVAIL flags are those of the driver's lap, in every slot: where they change,
//!   the driver stands. From there on, once round, slots are in the order in which
//!   they were made available: the driver's slot is the oldest.
//! - In that order all chains that were returned come before all that were not.
//!   A returned chain has equal flags in its first slot; the rest of its slots
//!   look available. They are told by the NEXT flags, which stay.
//! - A crash may have caught the device between a burst's other chains and its
//!   first one, which makes them visible. Then that one is marked, and counts as
//!   returned here: who asks makes up for it.
//!
//! One thing stays open: the driver has begun to overwrite a returned chain. What
//! is left of it, at the driver's place, looks like a chain that is available.
//! So in rings with chains of several slots the device leaves its position in
//! guest memory before each burst is made visible; in others it leaves word that
//! no such chain was ever returned. The position that it left and the frontend's
//! base are believed if the ring agrees with them.

use super::state::Position;
use super::table::DESC_F_NEXT;

pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;

/// The flags of all slots, and where the driver stands.
struct Slots<'a> {
    flags: &'a [u16],
    driver: Position,
}

/// What a device event structure tells of the device's place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    /// Nothing: the device was of another kind, or has never been.
    Nothing,
    /// That no chain of several slots was ever returned: flags tell all.
    OnlyShort,
    /// That it stood there before its last burst became visible.
    At(Position),
}

/// Where the device goes on. `left` is what it left in its event structure,
/// `base` what the frontend says. Whatever a guest wrote, the answer is a slot
/// of the ring.
pub(super) fn find(flags: &[u16], left: Left, base: Position) -> Position {
    let slots = Slots::new(flags);
    let told = match left {
        Left::At(left) => vec![left, base],
        Left::Nothing => vec![base],
        Left::OnlyShort => vec![],
    };
    let agreed = told.into_iter().find(|told| slots.agree(*told));
    agreed.unwrap_or_else(|| slots.scan())
}

/// Whether some chain in the ring has, or had, more than one slot.
pub(super) fn has_long_chains(flags: &[u16]) -> bool {
    flags.iter().any(|flags| flags & DESC_F_NEXT != 0)
}

impl<'a> Slots<'a> {
    fn new(flags: &'a [u16]) -> Self {
        let lap = |index: usize| flags[index] & AVAIL != 0;
        let change = (1..flags.len()).find(|index| lap(*index) != lap(0));
        let driver = match change {
            Some(index) => Position {
                index: index as u16,
                wrap: lap(0),
            },
            None => Position {
                index: 0,
                wrap: !lap(0),
            },
        };
        Self { flags, driver }
    }

    fn len(&self) -> usize {
        self.flags.len()
    }

    /// The slot of a rank in the order of age, from the driver's place on.
    fn slot(&self, rank: usize) -> usize {
        (usize::from(self.driver.index) + rank) % self.len()
    }

    /// The position of a rank; that of as many as there are slots is the driver's.
    fn at(&self, rank: usize) -> Position {
        if rank == self.len() {
            return self.driver;
        }
        let slot = self.slot(rank);
        Position {
            index: slot as u16,
            wrap: self.flags[slot] & AVAIL != 0,
        }
    }

    /// The rank of a position, if it is one that the device can have.
    fn rank(&self, at: Position) -> Option<usize> {
        if at == self.driver {
            return Some(self.len());
        }
        let index = usize::from(at.index);
        if index >= self.len() {
            return None;
        }
        let rank = (index + self.len() - usize::from(self.driver.index)) % self.len();
        (self.at(rank) == at && !self.is_returned(rank)).then_some(rank)
    }

    /// Whether this is the first slot of a chain that was returned.
    fn is_returned(&self, rank: usize) -> bool {
        let flags = self.flags[self.slot(rank)];
        (flags & AVAIL != 0) == (flags & USED != 0)
    }

    fn has_next(&self, rank: usize) -> bool {
        self.flags[self.slot(rank)] & DESC_F_NEXT != 0
    }

    /// Whether the device may stand there: all that is older was returned,
    /// and nothing that is younger.
    fn agree(&self, at: Position) -> bool {
        self.rank(at).is_some_and(|rank| {
            (rank == 0 || !self.has_next(rank - 1))
                && (rank..self.len()).all(|rank| !self.is_returned(rank))
                && self.all_returned_before(rank)
        })
    }

    /// Looks at the chains that end before `rank`, from the youngest to the oldest.
    fn all_returned_before(&self, rank: usize) -> bool {
        let mut end = rank;
        while end > 0 {
            let mut first = end - 1;
            while first > 0 && !self.is_returned(first) && self.has_next(first - 1) {
                first -= 1;
            }
            // What lies at the driver's place may be the rest of a chain that
            // the driver is overwriting.
            if first > 0 && !self.is_returned(first) {
                return false;
            }
            end = first;
        }
        true
    }

    /// By the flags alone: behind the last chain that was returned.
    fn scan(&self) -> Position {
        let Some(mut last) = (0..self.len()).rev().find(|rank| self.is_returned(*rank)) else {
            return self.at(0);
        };
        while last + 1 < self.len() && self.has_next(last) {
            last += 1;
        }
        self.at(last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Position = Position {
        index: 0,
        wrap: true,
    };

    /// A ring with both sides of it, written store by store.
    struct Model {
        flags: Vec<u16>,
        left: Left,
        device: Position,
        driver: Position,
        /// Lengths of the chains between device and driver, oldest first, and
        /// of those that were returned and not seen by the driver yet.
        available: Vec<usize>,
        returned: Vec<usize>,
        /// Returned by a device that died before the driver could see it.
        unseen: Vec<usize>,
        has_long: bool,
    }

    impl Model {
        fn new(size: usize) -> Self {
            Self {
                flags: vec![0; size],
                left: Left::OnlyShort,
                device: START,
                driver: START,
                available: Vec::new(),
                returned: Vec::new(),
                unseen: Vec::new(),
                has_long: false,
            }
        }

        fn on(&self, at: Position, by: usize) -> Position {
            let index = usize::from(at.index) + by;
            Position {
                index: (index % self.flags.len()) as u16,
                wrap: at.wrap ^ (index / self.flags.len() % 2 == 1),
            }
        }

        fn free(&self) -> usize {
            let known = self.available.iter().chain(&self.unseen);
            let taken: usize = known.chain(&self.returned).sum();
            self.flags.len() - taken
        }

        /// The driver makes a chain available, if there is room.
        fn add(&mut self, len: usize) {
            if len > self.free() {
                return;
            }
            for nth in (0..len).rev() {
                let at = self.on(self.driver, nth);
                let lap = if at.wrap { AVAIL } else { USED };
                let next = if nth + 1 < len { DESC_F_NEXT } else { 0 };
                self.flags[usize::from(at.index)] = lap | next;
            }
            self.available.push(len);
            self.driver = self.on(self.driver, len);
        }

        /// The device returns up to `count` chains and dies after `stores`
        /// stores, or not. Returns those that the driver cannot see yet.
        fn burst(&mut self, count: usize, mut stores: usize) -> Vec<usize> {
            let count = count.min(self.available.len());
            let lens: Vec<_> = self.available[..count].to_vec();
            self.has_long |= lens.iter().any(|len| *len > 1);
            // The first one is marked, then the others are written.
            for (nth, len) in lens.iter().enumerate() {
                if stores == 0 {
                    return lens[..nth].to_vec();
                }
                stores -= 1;
                let lap = if self.device.wrap { AVAIL | USED } else { 0 };
                let next = if *len > 1 { DESC_F_NEXT } else { 0 };
                self.flags[usize::from(self.device.index)] = lap | next;
                self.device = self.on(self.device, *len);
                self.available.remove(0);
            }
            if self.has_long && count > 0 {
                if stores == 0 {
                    return lens;
                }
                stores -= 1;
                self.left = Left::At(self.device);
            }
            if stores == 0 {
                return lens;
            }
            self.returned.extend(lens);
            Vec::new()
        }

        /// The driver takes back up to `count` chains.
        fn reclaim(&mut self, count: usize) {
            let count = count.min(self.returned.len());
            self.returned.drain(..count);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(usize),
        Burst(usize),
        /// A burst that the device does not survive; the driver goes on.
        Crash {
            chains: usize,
            stores: usize,
            reclaim: usize,
            add: Vec<usize>,
        },
        Reclaim(usize),
    }

    fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
        let len = 1..=longest;
        let lens = proptest::collection::vec(len.clone(), 0..12);
        let step = prop_oneof![
            4 => len.prop_map(Step::Add),
            3 => (1usize..8).prop_map(Step::Burst),
            3 => (1usize..8).prop_map(Step::Reclaim),
            1 => (1usize..8, 0usize..10, 0usize..12, lens).prop_map(
                |(chains, stores, reclaim, add)| Step::Crash { chains, stores, reclaim, add }
            ),
        ];
        proptest::collection::vec(step, 1..120)
    }

    fn run(size: usize, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut model = Model::new(size);
        for step in steps {
            match step {
                Step::Add(len) => model.add(*len),
                Step::Burst(count) => assert!(model.burst(*count, usize::MAX).is_empty()),
                Step::Reclaim(count) => model.reclaim(*count),
                Step::Crash {
                    chains,
                    stores,
                    reclaim,
                    add,
                } => {
                    model.unseen = model.burst(*chains, *stores);
                    model.reclaim(*reclaim);
                    add.iter().for_each(|len| model.add(*len));
                    // A frontend that knows nothing but the ring's beginning.
                    let found = find(&model.flags, model.left, START);
                    prop_assert_eq!(found, model.device, "{:04x?}", model.flags);
                    model.has_long =
                        has_long_chains(&model.flags) || matches!(model.left, Left::At(_));
                    model.left = match model.has_long {
                        true => Left::At(found),
                        false => Left::OnlyShort,
                    };
                    let unseen = std::mem::take(&mut model.unseen);
                    model.returned.extend(unseen);
                }
            }
        }
        // An orderly stop: the base is right. Where the device was one of
        // another kind, nothing is written there.
        for left in [Left::Nothing, model.left] {
            let found = find(&model.flags, left, model.device);
            prop_assert_eq!(found, model.device, "{:04x?}", model.flags);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn the_place_of_a_killed_device_is_found(size in 1usize..20, steps in steps(1)) {
            run(size, &steps)?;
        }

        #[test]
        fn also_with_chains_of_several_slots(size in 4usize..20, steps in steps(4)) {
            run(size, &steps)?;
        }

        #[test]
        fn whatever_is_in_memory_the_place_is_in_the_ring(
            flags in proptest::collection::vec(any::<u16>(), 1..40),
            left in proptest::option::of(any::<u16>()), base in any::<u16>(),
        ) {
            let left = left.map_or(Left::Nothing, |bits| Left::At(Position::packed(bits)));
            let found = find(&flags, left, Position::packed(base));
            prop_assert!(usize::from(found.index) < flags.len());
        }
    }

    #[test]
    fn a_fresh_ring_begins_at_its_beginning() {
        assert_eq!(find(&[0; 8], Left::Nothing, START), START);
        let mut posted = [AVAIL; 8];
        assert_eq!(find(&posted, Left::Nothing, START), START);
        posted[3..].fill(0);
        assert_eq!(find(&posted, Left::Nothing, START), START);
    }
}
