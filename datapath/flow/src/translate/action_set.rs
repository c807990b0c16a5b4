//! The action set: actions that wait for the pipeline's end, and are done then
//! in OpenFlow's order (OpenFlow 1.5.1, 5.6). Buckets are such sets too.

use arrayvec::ArrayVec;

use crate::action::Action;

use super::{DropCause, Then, Tracer, Way};

/// Most actions that wait.
const MOST_WAITING: usize = 64;

/// What waits for the pipeline's end, in the order in which it was written.
#[derive(Default)]
pub(super) struct ActionSet<'p> {
    actions: ArrayVec<&'p Action, MOST_WAITING>,
}

/// When an action is done, within a set. Of those before [`Self::Set`], only
/// the last written one is done; of the final ones, only one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Pop,
    Push,
    DecTtl,
    Set,
    Resubmit,
    Output,
    Group,
}

const FIRST_TURNS: [Turn; 3] = [Turn::Pop, Turn::Push, Turn::DecTtl];

impl Turn {
    /// `None`: it has no place in a set.
    fn of(action: &Action) -> Option<Self> {
        Some(match action {
            Action::PopVlan => Self::Pop,
            Action::PushVlan(_) => Self::Push,
            Action::DecTtl(_) => Self::DecTtl,
            Action::ModVlanVid(_)
            | Action::ModVlanPcp(_)
            | Action::Mod(..)
            | Action::SetField { .. }
            | Action::Move { .. } => Self::Set,
            Action::Resubmit { .. } => Self::Resubmit,
            Action::Output(_)
            | Action::InPort
            | Action::Normal
            | Action::Flood
            | Action::All
            | Action::Controller(_) => Self::Output,
            Action::Group(_) => Self::Group,
            Action::OutputField(_)
            | Action::Note(_)
            | Action::Exit
            | Action::Meter(_)
            | Action::ClearActions
            | Action::WriteActions(_)
            | Action::WriteMetadata { .. }
            | Action::GotoTable(_) => return None,
        })
    }
}

/// A set's actions in the order in which they are done. Nothing is done at all
/// without a final one.
fn in_turn<'p>(
    set: impl Iterator<Item = &'p Action> + Clone,
) -> impl Iterator<Item = &'p Action> + Clone {
    let at = |turn: Turn| move |action: &&Action| Turn::of(action) == Some(turn);
    let last = |turn: Turn| set.clone().filter(at(turn)).last();
    let last_of_all =
        (last(Turn::Group).or_else(|| last(Turn::Output))).or_else(|| last(Turn::Resubmit));
    let first = FIRST_TURNS.map(last);
    let rest = last_of_all.is_some().then_some(set);
    let sets = rest.into_iter().flatten().filter(at(Turn::Set));
    let first = first.into_iter().flatten();
    let first = first.take(if last_of_all.is_some() { usize::MAX } else { 0 });
    first.chain(sets).chain(last_of_all)
}

impl<'p, T: Tracer> Way<'p, '_, T> {
    pub(super) fn clear_action_set(&mut self) {
        self.trace_action_set("was");
        self.action_set.actions.clear();
    }

    /// Later ones are done instead of earlier ones, or after them.
    #[inline(never)]
    pub(super) fn write_action_set(&mut self, actions: &'p [Action]) {
        for action in actions {
            if self.action_set.actions.try_push(action).is_err() {
                self.fail(DropCause::TooManyActions);
                return;
            }
        }
        self.trace_action_set("is");
    }

    fn trace_action_set(&mut self, verb: &str) {
        let mut actions = in_turn(self.action_set.actions.iter().copied());
        self.tracer.action_set_now(self.level, verb, &mut actions);
    }

    /// Does the action set at the pipeline's end.
    pub(super) fn run_action_set(&mut self) {
        if self.action_set.actions.is_empty() || self.exit || self.failed.is_some() {
            return;
        }
        let set = std::mem::take(&mut self.action_set);
        let mut actions = in_turn(set.actions.iter().copied()).peekable();
        if actions.peek().is_some() {
            self.tracer.action_set(self.level);
            self.level += 1;
            self.run_each(actions);
        }
    }

    /// Does a set's actions.
    pub(super) fn run_set(&mut self, set: &'p [Action]) {
        let mut actions = in_turn(set.iter()).peekable();
        if actions.peek().is_none() {
            self.tracer.nothing(self.level);
        }
        self.run_each(actions);
    }

    fn run_each(&mut self, actions: impl Iterator<Item = &'p Action>) {
        for action in actions {
            if self.run(std::slice::from_ref(action)) == Then::Stop {
                return;
            }
        }
    }
}
