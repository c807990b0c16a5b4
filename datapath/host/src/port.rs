//! A running port whose other end is the kernel.
