#!/usr/bin/env bash
# run.sh SECONDS [TARGET…]: runs the targets (all of them if none is named), each
# for so long. Stops at the first input that breaks a law.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=$1
shift
[ $# -gt 0 ] || set -- requests state ovs

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# What cargo-fuzz asks of the compiler is not stable.
export RUSTC_BOOTSTRAP=1
for target; do
    mkdir -p "corpus/$target"
    options=(-max_total_time="$seconds" -max_len=4096 -timeout=60 -rss_limit_mb=4096)
    case $target in ovs | state) options+=(-dict=words.dict) ;; esac
    # -s none: no sanitizer, the control plane is all safe code. -a: debug assertions.
    nice cargo fuzz run --fuzz-dir . -s none -a "$target" \
        "corpus/$target" "seeds/$target" -- "${options[@]}"
done
