#!/usr/bin/env bash
# run.sh SECONDS [TARGET…]: runs the targets (all of them if none is named), each
# for so long. Stops at the first input that breaks a law.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=$1
shift
[ $# -gt 0 ] || set -- session rings header

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# What cargo-fuzz asks of the compiler is not stable.
export RUSTC_BOOTSTRAP=1
for target; do
    mkdir -p "corpus/$target"
    # The address sanitizer is the default; -a: debug assertions.
    nice cargo fuzz run --fuzz-dir . -a "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=60 -rss_limit_mb=4096
done
