//! Guests on one bridge, one of which says to be others, floods, fills tables
//! or sends more than its share: its port's guard names what it refuses, and a
//! pair of guests beside it keeps its rate and loses nothing.

#[path = "isolation/crowd.rs"]
mod crowd;
#[path = "isolation/load.rs"]
mod load;
#[path = "isolation/spoofing.rs"]
mod spoofing;
