//! Programs: what the datapath does with the packets of a megaflow, as words.

use arrayvec::ArrayVec;

use crate::action::Reason;

/// Most words of a program.
pub const PROGRAM_WORDS: usize = 160;

/// Why a packet of a megaflow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropCause {
    /// No rule matched and the table says nothing else.
    NoFlow = 0,
    /// The rules say so: `drop`, or nothing that sends the packet anywhere.
    Rule = 1,
    /// More resubmits than are allowed, or nested deeper.
    ResubmitLimit = 2,
    /// `dec_ttl` met a TTL of 0 or 1.
    TtlExpired = 3,
    /// The actions do not fit a program.
    TooManyActions = 4,
    /// No bucket of the group is live (or has a weight).
    NoLiveBucket = 5,
    /// There is no such group.
    NoGroup = 6,
    /// There is no such meter.
    NoMeter = 7,
    /// The only output is the port that the packet came from.
    SameIngress = 8,
    /// The only output is a port number that cannot be (a reserved one).
    NoPort = 9,
}

impl DropCause {
    /// Every cause, by number.
    pub const ALL: [Self; 10] = [
        Self::NoFlow,
        Self::Rule,
        Self::ResubmitLimit,
        Self::TtlExpired,
        Self::TooManyActions,
        Self::NoLiveBucket,
        Self::NoGroup,
        Self::NoMeter,
        Self::SameIngress,
        Self::NoPort,
    ];
}

/// One step of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DpAction {
    /// To the port with this number.
    Output(u16),
    /// As a learning switch does, now: learn the source, look up the
    /// destination, flood if it is not known.
    Normal,
    /// To every port of the bridge but the ingress port.
    Flood,
    /// Writes the bits of `mask` in a word of the packet's key (addresses,
    /// ports, TTL …) to those of `value`.
    Set {
        /// Word of the packet's key.
        word: u8,
        /// Values.
        value: u64,
        /// Bits to be written.
        mask: u64,
    },
    /// Puts a tag in front.
    PushVlan {
        /// TPID.
        tpid: u16,
        /// TCI; its CFI bit is set and goes out as zero.
        tci: u16,
    },
    /// Takes the outer tag away.
    PopVlan,
    /// A copy to controllers.
    Controller {
        /// Why.
        reason: Reason,
        /// How many bytes at most.
        max_len: u16,
        /// Which controllers.
        id: u16,
        /// The rule that sent it: its table.
        table: u8,
    },
    /// Beyond the meter's rate the packet ends here.
    Meter(u32),
    /// The packet ends here. Only as a program's last step, and only when
    /// nothing before it sends the packet anywhere.
    Drop(DropCause),
}

/// The program does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramFull;

/// A program: steps, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    words: ArrayVec<u64, PROGRAM_WORDS>,
}

const OUTPUT: u64 = 1;
const NORMAL: u64 = 2;
const FLOOD: u64 = 3;
const SET: u64 = 4;
const PUSH_VLAN: u64 = 5;
const POP_VLAN: u64 = 6;
const CONTROLLER: u64 = 7;
const METER: u64 = 8;
const DROP: u64 = 9;

impl Program {
    /// Forgets all steps.
    pub fn clear(&mut self) {
        self.words.clear();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// As words, to be kept in a table.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Forgets what was added after there were `words` words.
    pub fn truncate(&mut self, words: usize) {
        self.words.truncate(words);
    }

    /// Adds a step.
    pub fn push(&mut self, action: DpAction) -> Result<(), ProgramFull> {
        let head = |op: u64, argument: u64| op << 56 | argument;
        let one = |word: u64| ([word, 0, 0], 1);
        let (words, count) = match action {
            DpAction::Output(port) => one(head(OUTPUT, port.into())),
            DpAction::Normal => one(head(NORMAL, 0)),
            DpAction::Flood => one(head(FLOOD, 0)),
            DpAction::Set { word, value, mask } => ([head(SET, word.into()), value, mask], 3),
            DpAction::PushVlan { tpid, tci } => {
                one(head(PUSH_VLAN, u64::from(tpid) << 16 | u64::from(tci)))
            }
            DpAction::PopVlan => one(head(POP_VLAN, 0)),
            DpAction::Controller {
                reason,
                max_len,
                id,
                table,
            } => one(head(
                CONTROLLER,
                u64::from(table) << 40
                    | (reason as u64) << 32
                    | u64::from(max_len) << 16
                    | u64::from(id),
            )),
            DpAction::Meter(id) => one(head(METER, id.into())),
            DpAction::Drop(cause) => one(head(DROP, cause as u64)),
        };
        (self.words.try_extend_from_slice(&words[..count])).map_err(|_| ProgramFull)
    }

    /// The steps.
    pub fn steps(&self) -> Steps<'_> {
        Steps::of(&self.words)
    }
}

/// Reads steps out of words; ends at the first word that is none.
pub struct Steps<'w>(&'w [u64]);

impl<'w> Steps<'w> {
    /// The steps that `words` stand for.
    pub fn of(words: &'w [u64]) -> Self {
        Self(words)
    }
}

impl Iterator for Steps<'_> {
    type Item = DpAction;

    #[inline]
    fn next(&mut self) -> Option<DpAction> {
        let (head, rest) = self.0.split_first()?;
        self.0 = rest;
        let low = |shift: u32| (head >> shift) as u16;
        Some(match head >> 56 {
            OUTPUT => DpAction::Output(low(0)),
            NORMAL => DpAction::Normal,
            FLOOD => DpAction::Flood,
            SET => {
                let ([value, mask], rest) = self.0.split_first_chunk::<2>()?;
                self.0 = rest;
                DpAction::Set {
                    word: *head as u8,
                    value: *value,
                    mask: *mask,
                }
            }
            PUSH_VLAN => DpAction::PushVlan {
                tpid: low(16),
                tci: low(0),
            },
            POP_VLAN => DpAction::PopVlan,
            CONTROLLER => DpAction::Controller {
                reason: match head >> 32 & 0xff {
                    0 => Reason::NoMatch,
                    2 => Reason::InvalidTtl,
                    _ => Reason::Action,
                },
                max_len: low(16),
                id: low(0),
                table: (head >> 40) as u8,
            },
            METER => DpAction::Meter(*head as u32),
            DROP => DpAction::Drop(*DropCause::ALL.get(usize::from(low(0)))?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_back_as_they_went_in() {
        let steps = [
            DpAction::Meter(7),
            DpAction::Set {
                word: 3,
                value: 0x1234,
                mask: 0xffff,
            },
            DpAction::PushVlan {
                tpid: 0x88a8,
                tci: 0x1005,
            },
            DpAction::Output(0xfffe),
            DpAction::PopVlan,
            DpAction::Controller {
                reason: Reason::InvalidTtl,
                max_len: 128,
                id: 9,
                table: 200,
            },
            DpAction::Normal,
            DpAction::Flood,
            DpAction::Drop(DropCause::NoPort),
        ];
        let mut program = Program::default();
        for step in steps {
            program.push(step).unwrap();
        }
        assert_eq!(program.steps().collect::<Vec<_>>(), steps);
    }

    #[test]
    fn a_full_program_takes_no_half_step() {
        let mut program = Program::default();
        while program.push(DpAction::Normal).is_ok() {}
        assert_eq!(program.words().len(), PROGRAM_WORDS);
        program.truncate(PROGRAM_WORDS - 2);
        let set = DpAction::Set {
            word: 0,
            value: 0,
            mask: 0,
        };
        assert_eq!(program.push(set), Err(ProgramFull));
        assert_eq!(program.words().len(), PROGRAM_WORDS - 2);
    }
}
