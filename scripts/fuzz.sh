#!/usr/bin/env bash
# Fuzzes the code that reads input from clients: each target of fuzz/ in turn, with limits of time and memory. Ends with a
# table of the runs. Exits with 1 if a target found something.
#
#     scripts/fuzz.sh [--seconds N] [--jobs N] [--address] [TARGET...]
#     scripts/fuzz.sh --smoke       for CI: an unoptimised build; seeds, regressions and a second of fuzzing for each
#                                   target, without `config`, for which the whole program would be built
#     scripts/fuzz.sh --coverage [TARGET...]    lines and regions that seeds and corpora reach, file by file
#
# Needs cargo and a C++ compiler: libFuzzer comes with its crate, and a stable compiler can instrument. With --address (a
# nightly compiler is needed) AddressSanitizer watches, at half the speed. Inputs that failed are in
# fuzz/artifacts/TARGET; after the fix they go to fuzz/regressions/TARGET, and into a test beside the code.
set -euo pipefail
cd "$(dirname "$0")/.."

HOST=$(rustc -vV | sed -n 's/^host: //p')
# As cargo-fuzz has them.
INSTRUMENT="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions"
CORE=crates/gyre-core/src WEB=crates/gyre-web/src
# What each target is for.
declare -A FILES=(
    [bencode]="$CORE/wire/bencode.rs $CORE/wire/answer.rs"
    [chunked]=$CORE/wire/chunked.rs
    [config]="src/cli $CORE/config.rs"
    [engine]=$CORE/engine
    [forwarded]=$CORE/wire/forwarded.rs
    [http]="$CORE/wire/http $CORE/engine/route.rs"
    [lists]=$CORE/access
    [proxy]=$CORE/wire/proxy.rs
    [query]="$CORE/wire/query.rs $WEB/query.rs"
    [response]=$CORE/wire/http/response.rs
    [shard]=$CORE/swarm
    [snapshot]=$CORE/snapshot.rs
    [udp]=$CORE/wire/udp.rs
    [web]=$WEB
)

say() { printf '%s\n' "$*" >&2; }
die() { say "fuzz: error: $*"; exit 2; }

seconds=60 jobs=1 mode=fuzz profile=release cargo=(cargo) targets=()
while (($#)); do
    case $1 in
        --seconds) seconds=${2:?} && shift ;;
        --jobs) jobs=${2:?} && shift ;;
        --smoke) mode=smoke profile=dev seconds=1 jobs=$(nproc) ;;
        --coverage) mode=coverage profile=dev ;;
        --address) mode=address cargo=(rustup run nightly cargo) INSTRUMENT+=" -Zsanitizer=address" ;;
        -*) die "there is no option $1" ;;
        *) [[ ${FILES[$1]-} ]] || die "there is no target $1; these are: ${!FILES[*]}"; targets+=("$1") ;;
    esac
    shift
done
if ((!${#targets[@]})); then
    mapfile -t targets < <(printf '%s\n' "${!FILES[@]}" | sort)
    [[ $mode != smoke ]] || mapfile -t targets < <(printf '%s\n' "${targets[@]}" | grep -vx config)
fi
features=()
[[ " ${targets[*]} " != *" config "* ]] || features=(--features program)

# A folder for each mode: the flags differ from those of all other builds.
[[ $mode == coverage ]] && INSTRUMENT=-Cinstrument-coverage
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}/fuzz-$mode")
CARGO_TARGET_DIR=$folder RUSTFLAGS=$INSTRUMENT \
    "${cargo[@]}" build --locked --manifest-path fuzz/Cargo.toml --profile "$profile" --target "$HOST" "${features[@]}" \
    "${targets[@]/#/--bin=}"
programs=$folder/$HOST/${profile/dev/debug}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Folders of inputs of target $1.
inputs() {
    local kind
    for kind in seeds regressions corpus; do
        [[ -d fuzz/$kind/$1 ]] && printf '%s\n' "fuzz/$kind/$1"
    done
}

run() {
    local target=$1 new=fuzz/corpus/$1 old options=() status=0
    [[ $mode == smoke ]] && new=$scratch/$target.new
    mkdir -p "$new" "fuzz/artifacts/$target"
    mapfile -t old < <(inputs "$target")
    [[ -e fuzz/dictionaries/$target.dict ]] && options+=("-dict=fuzz/dictionaries/$target.dict")
    "$programs/$target" -max_total_time="$seconds" -timeout=120 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="fuzz/artifacts/$target/" "${options[@]}" "$new" "${old[@]}" \
        &>"$scratch/$target.log" || status=$?
    echo $status >"$scratch/$target.status"
}

# The value of a line of libFuzzer's, by its name.
value() { sed -n "s/.*$2: *\([0-9]*\).*/\1/p" "$scratch/$1.log" | tail -n 1; }

coverage() {
    local tools target
    rustup component list | grep -q '^llvm-tools.*(installed)' || rustup component add llvm-tools
    tools=$(rustc --print sysroot)/lib/rustlib/$HOST/bin
    for target in "${targets[@]}"; do
        mapfile -t folders < <(inputs "$target")
        find "${folders[@]}" -type f -print0 |
            LLVM_PROFILE_FILE=$scratch/$target-%p.profraw xargs -0 "$programs/$target" &>"$scratch/$target.log" ||
            { tail -n 20 "$scratch/$target.log" >&2; die "$target fails"; }
        "$tools/llvm-profdata" merge -o "$scratch/$target.profdata" "$scratch/$target"-*.profraw
        echo "== $target"
        # shellcheck disable=SC2086 # several files
        "$tools/llvm-cov" report "$programs/$target" -instr-profile="$scratch/$target.profdata" \
            ${FILES[$target]} | awk 'NF >= 10 && $1 != "Filename" {
                printf "%-34s %6s of %5s lines %8s, regions %8s\n", $1, $8 - $9, $8, $10, $4
            }'
    done
}

if [[ $mode == coverage ]]; then
    coverage
    exit
fi
for target in "${targets[@]}"; do
    while (($(jobs -pr | wc -l) >= jobs)); do wait -n; done
    run "$target" &
done
wait

failed=0
printf '%-10s %12s %8s %7s %9s %7s %7s  %s\n' target executions exec/s edges features inputs 'MiB' result
for target in "${targets[@]}"; do
    result=ok
    if (($(<"$scratch/$target.status"))); then
        result=FOUND failed=1
    fi
    printf '%-10s %12s %8s %7s %9s %7s %7s  %s\n' "$target" "$(value "$target" number_of_executed_units)" \
        "$(value "$target" average_exec_per_sec)" "$(value "$target" cov)" "$(value "$target" ft)" \
        "$(value "$target" new_units_added)" "$(value "$target" peak_rss_mb)" "$result"
done
for target in "${targets[@]}"; do
    (($(<"$scratch/$target.status"))) || continue
    say "--- $target"
    tail -n 40 "$scratch/$target.log" >&2
done
exit $failed
