//! Order and content of what arrives, per flow.

use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// What went wrong in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Frames that arrived whole, the first time.
    pub good: u64,
    /// Frames that never arrived; final once the traffic has drained.
    pub lost: u64,
    /// Frames that arrived again.
    pub duplicated: u64,
    /// Frames that arrived after a later one of their flow.
    pub reordered: u64,
    /// Frames with a wrong CRC or without a stamp.
    pub corrupt: u64,
    /// Frames that another port sent.
    pub stray: u64,
}

impl Verdict {
    /// Whether every frame arrived once, in order, whole and where it belongs.
    pub fn is_clean(&self) -> bool {
        *self
            == Self {
                good: self.good,
                ..Self::default()
            }
    }
}

#[derive(Clone, Copy, Default)]
struct Flow {
    /// Next sequence number expected.
    next: u32,
    /// Bit `n`: `next - 1 - n` has arrived.
    seen: u64,
}

/// Checks one direction.
pub struct Verifier {
    from: u8,
    flows: Vec<Flow>,
    verdict: Verdict,
}

impl Verifier {
    /// For frames that port `from` sends on `flows` flows, numbered from 0.
    pub fn new(from: usize, flows: u32) -> Self {
        Self {
            from: from as u8,
            flows: vec![Flow::default(); flows as usize],
            verdict: Verdict::default(),
        }
    }

    /// Takes the next frame that arrived: its stamp, or `None` if it is corrupt.
    pub fn arrived(&mut self, stamp: Option<Stamp>) {
        let Some(stamp) = stamp else {
            self.verdict.corrupt += 1;
            return;
        };
        if stamp.from != self.from {
            self.verdict.stray += 1;
            return;
        }
        let Some(flow) = self.flows.get_mut(stamp.flow as usize) else {
            self.verdict.corrupt += 1;
            return;
        };
        let ahead = stamp.sequence.wrapping_sub(flow.next) as i32;
        if ahead >= 0 {
            let shift = ahead as u32 + 1;
            flow.seen = flow.seen.checked_shl(shift).unwrap_or(0) | 1;
            flow.next = stamp.sequence.wrapping_add(1);
            self.verdict.good += 1;
            return;
        }
        let behind = ahead.unsigned_abs() - 1;
        let bit = 1_u64.checked_shl(behind).unwrap_or(0);
        // Older than the window: cannot tell, call it reordered.
        if flow.seen & bit != 0 {
            self.verdict.duplicated += 1;
        } else {
            flow.seen |= bit;
            self.verdict.reordered += 1;
            self.verdict.good += 1;
        }
    }

    /// The verdict, once `sent` frames have been sent and the rest drained.
    pub fn verdict(&self, sent: u64) -> Verdict {
        Verdict {
            lost: sent.saturating_sub(self.verdict.good),
            ..self.verdict
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(arrivals: &[(u32, u32)], sent: u64) -> Verdict {
        let mut verifier = Verifier::new(0, 4);
        for &(flow, sequence) in arrivals {
            verifier.arrived(Some(Stamp {
                from: 0,
                flow,
                sequence,
                sent_at: 0,
            }));
        }
        verifier.verdict(sent)
    }

    #[test]
    fn flows_in_order_are_clean_however_they_interleave() {
        let verdict = after(&[(0, 0), (1, 0), (1, 1), (0, 1), (3, 0), (0, 2)], 6);
        assert!(verdict.is_clean());
        assert_eq!(verdict.good, 6);
    }

    #[test]
    fn a_gap_is_a_loss() {
        let verdict = after(&[(0, 0), (0, 3), (0, 4)], 5);
        assert_eq!(verdict.lost, 2);
        assert_eq!((verdict.reordered, verdict.duplicated), (0, 0));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_late_frame_is_reordered_and_not_lost() {
        let verdict = after(&[(0, 0), (0, 2), (0, 1), (0, 3)], 4);
        assert_eq!(
            (verdict.reordered, verdict.lost, verdict.duplicated),
            (1, 0, 0)
        );
    }

    #[test]
    fn the_same_frame_twice_is_duplicated_whether_late_or_at_once() {
        let verdict = after(&[(0, 0), (0, 1), (0, 1), (0, 0), (0, 2)], 3);
        assert_eq!(
            (verdict.duplicated, verdict.reordered, verdict.lost),
            (2, 0, 0)
        );
        // A frame that came late counts as duplicated the second time.
        let verdict = after(&[(0, 1), (0, 0), (0, 0)], 2);
        assert_eq!((verdict.duplicated, verdict.reordered), (1, 1));
    }

    #[test]
    fn a_jump_beyond_the_window_forgets_without_mistaking() {
        let verdict = after(&[(0, 0), (0, 100), (0, 99), (0, 1)], 101);
        assert_eq!((verdict.reordered, verdict.duplicated), (2, 0));
        assert_eq!(verdict.lost, 97);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut verifier = Verifier::new(0, 1);
        verifier.flows[0].next = u32::MAX;
        for sequence in [u32::MAX, 0, 1] {
            verifier.arrived(Some(Stamp {
                from: 0,
                flow: 0,
                sequence,
                sent_at: 0,
            }));
        }
        assert!(verifier.verdict(3).is_clean());
    }

    #[test]
    fn corrupt_and_stray_frames_are_told_apart() {
        let mut verifier = Verifier::new(0, 1);
        let stamp = Stamp {
            from: 1,
            flow: 0,
            sequence: 0,
            sent_at: 0,
        };
        verifier.arrived(None);
        verifier.arrived(Some(stamp));
        verifier.arrived(Some(Stamp {
            from: 0,
            flow: 9,
            ..stamp
        }));
        let verdict = verifier.verdict(0);
        assert_eq!((verdict.corrupt, verdict.stray, verdict.good), (2, 1, 0));
    }
}
