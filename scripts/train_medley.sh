#!/usr/bin/env bash
# Fits every song of a list, one song folder a line, as many at once as the memory holds:
#
#     scripts/train_medley.sh scripts/medley_vocals_list.txt ~/processed/medley_vocal_log [key=value …]
#
# Runs go to LOG/<song>/<wet stem>/run_N, the output to LOG/train.log; further arguments are those of fit_many.py, as
# `epochs=400` or `--workers 4`. Finished runs are left alone, interrupted ones resume; failed ones are listed at the end.
set -u

if [ $# -lt 2 ]; then
    echo "usage: $0 LIST LOG [key=value …] [options of fit_many.py]" >&2
    exit 2
fi
list=$1 log=$2
shift 2
program=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/fit_many.py
[ -r "$list" ] || { echo "$0: $list: cannot be read" >&2; exit 2; }
mkdir -p "$log" || exit 2
"${PYTHON:-python}" "$program" "$list" "$log" --together 64 "$@" 2>&1 | tee -i -a "$log/train.log"
exit "${PIPESTATUS[0]}"
