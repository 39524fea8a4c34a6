#!/usr/bin/env bash
# Sees that `daypass` is on PATH: the one that is there, or one that is fetched and whose digest is right.
set -euo pipefail
# shellcheck source=deploy/ci/github/scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

fetch() {
    [[ $INPUT_URL == https://* ]] || fail "url must be https, and is $INPUT_URL"
    [[ ${INPUT_SHA256-} =~ ^[0-9a-fA-F]{64}$ ]] || fail "with url goes sha256, 64 hex digits: a program that could be any other is not run"
    local bin=$daypass_dir/bin part
    make_dir
    mkdir -p "$bin"
    part=$(mktemp "$bin/.daypass.XXXXXX")
    trap 'rm -f "$part"' EXIT
    curl --fail --silent --show-error --location --proto '=https' --proto-redir '=https' --max-time 120 --retry 3 \
        --output "$part" "$INPUT_URL" || fail "$INPUT_URL cannot be fetched"
    printf '%s  %s\n' "${INPUT_SHA256,,}" "$part" | sha256sum --check --status || fail "what lies at $INPUT_URL has another SHA-256"
    chmod 755 "$part"
    mv "$part" "$bin/daypass"
    # The same program by its other name.
    ln -sf daypass "$bin/docker-credential-daypass"
    printf '%s\n' "$bin" >>"$GITHUB_PATH"
    export PATH=$bin:$PATH
}

if [[ -n ${INPUT_URL-} ]]; then
    fetch
fi
command -v daypass >/dev/null || fail "daypass is not on PATH: install it in the runner's image, or give url and sha256"
found=$(daypass --version)
if [[ -n ${INPUT_VERSION-} && $found != "daypass ${INPUT_VERSION#v}" ]]; then
    fail "$found is here, and version ${INPUT_VERSION#v} is wanted"
fi
printf '%s\n' "$found"
