//! Open vSwitch as the oracle of ringway's flow tables: random rules are given
//! to both as text, random frames are sent through both, and everything that
//! both say and send is compared.
//!
//! What ringway does otherwise on purpose is written in `DECISIONS.md`, and
//! allowed by name in [`allowed`].

pub mod allowed;
pub mod compare;
pub mod dice;
pub mod domain;
pub mod execute;
pub mod frames;
pub mod oracle;
pub mod printed;
pub mod rules;
pub mod subject;
pub mod unixctl;
