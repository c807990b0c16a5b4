//! Kernel interfaces, asked and changed through rtnetlink (rtnetlink(7)), in
//! the network namespace of the calling process.
