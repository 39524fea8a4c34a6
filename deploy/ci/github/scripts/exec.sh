#!/usr/bin/env bash
# Runs commands under `daypass exec`, which revokes the leases when they end, however they end.
set -euo pipefail
# shellcheck source=deploy/ci/github/scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

use_ca
read -ra roles <<<"$INPUT_ROLE"
((${#roles[@]})) || fail "role is empty"
options=()
if [[ -n ${INPUT_TTL-} ]]; then
    options+=(--ttl "$INPUT_TTL")
fi
# As GitHub runs a step's commands.
exec daypass exec "${options[@]}" "${roles[@]}" -- bash --noprofile --norc -eo pipefail -c "$INPUT_RUN"
