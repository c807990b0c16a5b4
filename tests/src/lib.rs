//! End-to-end tests with real guests, hostile guests, and the demo.
