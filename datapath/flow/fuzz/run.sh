#!/usr/bin/env bash
# run.sh SECONDS [TARGET…]: runs the targets (all of them if none is named), each
# for so long. Stops at the first input that breaks a law.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=$1
shift
[ $# -gt 0 ] || set -- packet text rewrite tables

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# What cargo-fuzz asks of the compiler is not stable.
export RUSTC_BOOTSTRAP=1
for target; do
    mkdir -p "corpus/$target"
    options=(-max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048)
    case $target in text | tables) options+=(-dict=text.dict) ;; esac
    # -s none: no sanitizer, the crate is all safe code. -a: debug assertions.
    nice cargo fuzz run --fuzz-dir . -s none -a "$target" \
        "corpus/$target" "seeds/$target" -- "${options[@]}"
done
