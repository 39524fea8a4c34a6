# shellcheck shell=bash
# What the scripts of the actions share.

# Of this job alone: the runner empties it before and after.
daypass_dir=${RUNNER_TEMP:?this runs inside GitHub Actions}/daypass

fail() {
    printf '::error title=Daypass::%s\n' "$1"
    exit 1
}

make_dir() {
    (umask 077 && mkdir -p "$daypass_dir")
}

# The CAs come as text, and the client wants a file.
use_ca() {
    if [[ -n ${INPUT_CA-} ]]; then
        make_dir
        printf '%s\n' "$INPUT_CA" >"$daypass_dir/ca.pem"
        export DAYPASS_CA=$daypass_dir/ca.pem
    fi
}

# For the steps that follow. A delimiter that no value can hold ends each one.
set_env() {
    local end=daypass_${RANDOM}_${RANDOM}_${RANDOM}
    printf '%s<<%s\n%s\n%s\n' "$1" "$end" "$2" "$end" >>"$GITHUB_ENV"
}
