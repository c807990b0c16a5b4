//! One request to the kernel by netlink, and its answers.
