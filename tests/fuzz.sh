#!/usr/bin/env bash
# fuzz.sh run SECONDS CRATE [TARGET…]   each target for so long; stops at the first
#                                       input that breaks a law
# fuzz.sh coverage CRATE [TARGET…]      what seeds and corpus reach, of the files
#                                       that each target is about
#
# CRATE is the folder beside fuzz/ (vhost, control, datapath/flow); without targets
# all of them are meant.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What each target is about: folders or files below the crate.
about() {
    case $1 in
    vhost/session) echo src/{session,early,socket,memory,dirty,features,status}.rs ;;
    vhost/rings) echo src/{dequeue,enqueue,packet,dirty}.rs src/ring/{mod,packed,position,split,state,table}.rs ;;
    vhost/header) echo src/gso/{cut,headers,mod}.rs src/checksum.rs ;;
    control/requests) echo ringwayd/src/{service,control,convert,flow_requests,apply_request,packet_out,model,flows}.rs ringwayd/src/{control,convert,model,flows} ;;
    control/state) echo ringwayd/src/{state,journal}.rs ringwayd/src/{state,journal} ;;
    control/ovs) echo ringway/src/ovs ;;
    datapath/flow/packet) echo src/{extract,compose} src/key.rs ;;
    datapath/flow/text) echo src/{text,datapath_text} src/{action,field,matching,rule}.rs ;;
    datapath/flow/rewrite) echo src/rewrite src/program.rs ;;
    datapath/flow/tables) echo src/{table,translate,trace,pipeline} ;;
    esac
}

# Options of cargo-fuzz and of libFuzzer, by crate and target.
options() {
    # -a: debug assertions and overflow checks. The address sanitizer where there
    # is unsafe code to be watched.
    cargo_fuzz=(--fuzz-dir "$1/fuzz" -a -s none)
    [ "$1" != vhost ] || cargo_fuzz=(--fuzz-dir "$1/fuzz" -a -s address)
    lib_fuzzer=(-max_len=4096 -timeout=60 -rss_limit_mb=4096)
    local dictionary="$1/fuzz/dictionaries/$2"
    [ ! -e "$dictionary" ] || lib_fuzzer+=(-dict="$dictionary")
}

# The tools of the compiler's own LLVM: no other reads its profiles for certain.
llvm_tools() {
    local bin
    bin=$(rustc --print target-libdir)/../bin
    [ -x "$bin/llvm-cov" ] || rustup component add llvm-tools >&2
    realpath "$bin"
}

run() {
    nice cargo fuzz run "${cargo_fuzz[@]}" "$2" "$1/fuzz/corpus/$2" "$1/fuzz/seeds/$2" -- \
        "${lib_fuzzer[@]}" -max_total_time="$seconds" -print_final_stats=1
}

# Regions and lines: how many are reached, of how many.
coverage() {
    local tools host binary log
    tools=$(llvm_tools)
    log=$(mktemp)
    # Without optimisation: built faster, and every line is there. The address
    # sanitizer finds nothing here that it did not find above.
    nice cargo fuzz coverage --fuzz-dir "$1/fuzz" -D -s none "$2" \
        "$1/fuzz/corpus/$2" "$1/fuzz/seeds/$2" -- "${lib_fuzzer[@]}" >"$log" 2>&1 ||
        { cat "$log" >&2 && exit 1; }
    rm "$log"
    host=$(rustc -vV | sed -n 's/^host: //p')
    # Where cargo-fuzz builds for coverage, wherever it builds otherwise.
    binary=target/$host/coverage/$host/debug/$2
    local path files=()
    for path in $(about "$1/$2"); do
        [ ! -e "$1/$path" ] || files+=("$PWD/$1/$path")
    done
    "$tools/llvm-cov" report "$binary" -instr-profile "$1/fuzz/coverage/$2/coverage.profdata" \
        --show-functions=false "${files[@]}" |
        awk -v target="$1 $2" -v root="$PWD/$1/" '
            BEGIN { printf "\n%-42s %16s %16s\n", target, "regions", "lines" }
            NF >= 10 && ($1 ~ /\.rs$/ || $1 == "TOTAL") {
                sub(root, "", $1)
                part = "%5d/%5d %3d%% "
                printf "  %-38s  " part part "\n", $1,
                    $2 - $3, $2, 100 * ($2 - $3) / ($2 ? $2 : 1),
                    $8 - $9, $8, 100 * ($8 - $9) / ($8 ? $8 : 1)
            }'
}

what=$1
shift
case $what in
run)
    seconds=$1
    shift
    ;;
coverage) ;;
*) sed -n '2,/^$/s/^# \?//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
crate=$1
shift

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# What cargo-fuzz asks of the compiler is not stable.
export RUSTC_BOOTSTRAP=1
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir "$crate/fuzz")
[ $# -eq 0 ] || targets=("$@")
for target in "${targets[@]}"; do
    options "$crate" "$target"
    mkdir -p "$crate/fuzz/corpus/$target"
    "$what" "$crate" "$target"
done
