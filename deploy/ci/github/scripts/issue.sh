#!/usr/bin/env bash
# Issues a credential into files, and names them to the steps that follow: by GITHUB_ENV, which gets no secret.
set -euo pipefail
# shellcheck source=deploy/ci/github/scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Whatever in a file could be a secret is masked in the job's log, should a step print it.
mask() {
    local file line
    for file in "$1"/*; do
        [[ -f $file && $file != *.crt ]] || continue
        while read -r line; do
            printf '::add-mask::%s\n' "$line"
        done < <(grep -oE '[A-Za-z0-9+/=_.-]{16,}' "$file")
    done
    # docker's file holds base64 of `user:secret`.
    if [[ -f $1/config.json ]]; then
        while read -r line; do
            printf '::add-mask::%s\n' "$line"
        done < <(grep -oE '"auth": *"[^"]*"' "$1/config.json" | sed -E 's/.*"([^"]*)"$/\1/' | base64 --decode | cut -d: -f2-)
    fi
}

use_ca
make_dir
[[ $INPUT_ROLE =~ ^[a-z0-9-]+$ ]] || fail "role must be one role: for several use \`run\`, or this action several times"
options=()
if [[ -n ${INPUT_TTL-} ]]; then
    options+=(--ttl "$INPUT_TTL")
fi
out=$(mktemp -d "$daypass_dir/$INPUT_ROLE.XXXXXX")
lines=$(daypass issue "$INPUT_ROLE" "${options[@]}" --out "$out" --output env)
# The client quotes each value for a shell.
eval "$lines"
# First of all, so that whatever fails from here on, the lease is revoked.
printf '%s\n' "${DAYPASS_LEASE_ID:?daypass names no lease}" >>"$daypass_dir/leases"
mask "$out"
while read -r name; do
    set_env "$name" "${!name}"
done < <(sed -nE 's/^export ([A-Za-z_][A-Za-z0-9_]*)=.*/\1/p' <<<"$lines")
# The step that revokes, and the job's own calls, go to the same server.
for name in DAYPASS_ADDR DAYPASS_CA DAYPASS_AUDIENCE; do
    if [[ -n ${!name-} ]]; then
        set_env "$name" "${!name}"
    fi
done
printf 'lease-id=%s\n' "$DAYPASS_LEASE_ID" >>"$GITHUB_OUTPUT"
printf 'issued %s under the lease %s\n' "$INPUT_ROLE" "$DAYPASS_LEASE_ID"
