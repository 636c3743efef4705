#!/usr/bin/env bash
# Fits every song of a list, one song folder a line, as many at once as the memory holds:
#
#     scripts/train_medley.sh scripts/medley_vocals_list.txt ~/processed/medley_vocal_log [key=value …]
#
# Runs go to LOG/<song>/<wet stem>/run_N, the output of main.py to LOG/train.log; further arguments are its settings.
# Finished runs are left alone, interrupted ones resume; failed ones are listed at the end, with the reason.
set -u

if [ $# -lt 2 ]; then
    echo "usage: $0 LIST LOG [key=value …]" >&2
    exit 2
fi
list=$1 log=$2
shift 2
main=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")/main.py
[ -r "$list" ] || { echo "$0: $list: cannot be read" >&2; exit 2; }
mkdir -p "$log" || exit 2
"${PYTHON:-python}" "$main" data_dir="@$list" log_dir="$log" resume=true "$@" 2>&1 | tee -i -a "$log/train.log"
exit "${PIPESTATUS[0]}"
