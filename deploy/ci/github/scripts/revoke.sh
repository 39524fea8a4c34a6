#!/usr/bin/env bash
# Revokes what this job issued and removes its files. Safe to run when nothing was issued, and to run again.
set -euo pipefail
# shellcheck source=deploy/ci/github/scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ ! -s $daypass_dir/leases ]]; then
    printf 'nothing was issued\n'
    exit 0
fi
mapfile -t leases <"$daypass_dir/leases"
# The keys go whether or not the server answers.
find "$daypass_dir" -mindepth 1 -maxdepth 1 ! -name bin ! -name leases ! -name ca.pem -exec rm -rf {} +
daypass lease revoke "${leases[@]}" --reason "GitHub run ${GITHUB_RUN_ID-} has ended" ||
    fail "a lease was not revoked; it ends by itself when it expires"
rm -f "$daypass_dir/leases"
