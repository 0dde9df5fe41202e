# Sourced by check.sh and check-all.sh: names the steps, and prints at the end how long each took.
# shellcheck shell=bash

step_names=() step_seconds=() step_cpu=() step_failed=() step_cpu_before=0
step_file=$(mktemp)

# step NAME: ends the step before, if there is one, and begins this one.
step() {
    end_step
    printf '\n== %s (after %d s)\n' "$1" "$SECONDS"
    step_names+=("$1") step_failed+=('') step_began=$SECONDS
}

# The present step has failed.
fail_step() { step_failed[-1]=" FAILED"; }

end_step() {
    local cpu
    ((${#step_names[@]} > ${#step_seconds[@]})) || return 0
    times >"$step_file" # in no subshell, which would have other children
    cpu=$(awk -F '[ms ]+' 'NR == 2 { printf "%d", $1 * 60 + $2 + $3 * 60 + $4 }' "$step_file")
    step_seconds+=($((SECONDS - step_began))) step_cpu+=($((cpu - step_cpu_before)))
    step_cpu_before=$cpu
}

# Prints a line for each step: its seconds, and the CPU time of the commands that ended in it. On two idle cores the first
# is about half the second; on a busy machine only the second says something. $1: the exit code of the script.
end_steps() {
    local n line='%8s %8s  %s\n' code=$1
    if ((code && ${#step_names[@]})) && [[ ! ${step_failed[*]} =~ FAILED ]]; then fail_step; fi
    end_step
    rm -f "$step_file"
    # shellcheck disable=SC2059 # one format for every row
    printf "\n$line" seconds CPU step
    for n in "${!step_names[@]}"; do
        # shellcheck disable=SC2059
        printf "$line" "${step_seconds[n]}" "${step_cpu[n]}" "${step_names[n]}${step_failed[n]}"
    done
    # shellcheck disable=SC2059
    printf "$line" "$SECONDS" "$step_cpu_before" "$( ((code)) && echo "all: FAILED" || echo all)"
}

# install COMMAND=PACKAGE...: installs the Debian packages whose command isn't there, all at once.
install() {
    local pair missing=()
    for pair; do command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}"); done
    ((${#missing[@]})) || return 0
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}
