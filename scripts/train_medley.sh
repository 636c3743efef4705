#!/usr/bin/env bash
# Fits every song of a list, one song folder a line:
#
#     scripts/train_medley.sh scripts/medley_vocals_list.txt ~/processed/medley_vocal_log [key=value …]
#
# Runs go to LOG/<song>/<wet stem>/run_N, what main.py says to LOG/<song>/train.log; further arguments are settings of
# main.py. Songs that are done are skipped, interrupted runs go on; what failed is listed at the end, with the reason.
set -u

if [ $# -lt 2 ]; then
    echo "usage: $0 LIST LOG [key=value …]" >&2
    exit 2
fi
list=$1 log=$2
shift 2
[ -r "$list" ] || { echo "$0: $list: cannot be read" >&2; exit 2; }
main=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")/main.py
failed=() done=0 skipped=0

while IFS= read -r song <&3 || [ -n "$song" ]; do
    song=${song%$'\r'}
    song=${song%/}
    case $song in '' | \#*) continue ;; esac
    folder=$log/$(basename "$song")
    if [ -e "$folder/done" ]; then
        skipped=$((skipped + 1))
        continue
    fi
    mkdir -p "$folder" || exit 2
    echo "== $song"
    "${PYTHON:-python}" "$main" data_dir="$song" log_dir="$folder" resume=true "$@" 2>&1 | tee -i "$folder/train.log"
    status=${PIPESTATUS[0]}
    if [ "$status" = 0 ]; then
        touch "$folder/done"
        done=$((done + 1))
    elif [ "$status" -gt 128 ]; then
        echo "interrupted; the same command goes on from here"
        exit "$status"
    else
        why=$(grep '^main.py: ' "$folder/train.log" | head -n 1)
        failed+=("$song: ${why:-$(tail -n 1 "$folder/train.log")}")
    fi
done 3<"$list"

echo "$done songs fitted, $skipped done before, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
