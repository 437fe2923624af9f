#!/bin/bash
# The hardening gate: exposure of the installed units at most 1.5 (a bare service has 9.6).
# usage: security.sh UNIT...
set -euo pipefail
command -v systemd-analyze >/dev/null || exit 77
# systemd-analyze wants the unit's own name, not the build folder's.
for unit in "$@"; do
    systemd-analyze security --offline=yes --threshold=15 --no-pager "$unit" || {
        echo "$unit is more exposed than 1.5"
        exit 1
    }
done
