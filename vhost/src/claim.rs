//! Exclusive use of something by whichever PMD gets to it first.
//!
//! A ring may be reached by several PMDs (more cores than queue pairs, or a
//! ring that moves from one core to another). Taking it is one atomic swap per
//! burst; nobody ever blocks: who does not get it drops with a reason or comes
//! back in the next iteration.

#![allow(unsafe_code)]
// UNSAFETY: hands out &mut from a shared cell, guarded by an atomic flag.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A value that one thread at a time may use.
#[derive(Default)]
pub struct Claimed<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is only reached through a `Claim`, of which the `taken` flag
// (acquire on taking, release on giving back) allows one at a time.
unsafe impl<T: Send> Sync for Claimed<T> {}

impl<T> Claimed<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self {
            taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, of who has it alone.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Takes the value if nobody has it.
    #[inline(always)]
    pub fn try_claim(&self) -> Option<Claim<'_, T>> {
        (!self.taken.swap(true, Ordering::Acquire)).then(|| Claim { of: self })
    }

    /// Takes the value, looking at most `attempts` times.
    #[inline(always)]
    pub fn claim_within(&self, attempts: u32) -> Option<Claim<'_, T>> {
        self.try_claim().or_else(|| self.claim_slow(attempts))
    }

    #[cold]
    fn claim_slow(&self, attempts: u32) -> Option<Claim<'_, T>> {
        for _ in 0..attempts {
            if !self.taken.load(Ordering::Relaxed)
                && let Some(claim) = self.try_claim()
            {
                return Some(claim);
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// The right to use a [`Claimed`] value; given back on drop.
pub struct Claim<'a, T> {
    of: &'a Claimed<T>,
}

impl<T> Deref for Claim<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this claim is the only one (see `Sync` above).
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for Claim<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this claim is the only one (see `Sync` above).
        unsafe { &mut *self.of.value.get() }
    }
}

impl<T> Drop for Claim<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.of.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_at_a_time() {
        let cell = Claimed::new(1);
        let mut first = cell.try_claim().expect("free");
        assert!(cell.try_claim().is_none());
        assert!(cell.claim_within(10).is_none());
        *first += 1;
        drop(first);
        assert_eq!(cell.claim_within(10).map(|claim| *claim), Some(2));
    }

    #[test]
    fn increments_from_two_threads_are_all_there() {
        let cell = Claimed::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < 1000 {
                        if let Some(mut value) = cell.claim_within(100) {
                            *value += 1;
                            done += 1;
                        } else {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(cell.try_claim().map(|value| *value), Some(2000));
    }
}
