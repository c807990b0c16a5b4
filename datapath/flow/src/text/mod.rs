//! Flow syntax.
