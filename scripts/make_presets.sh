#!/usr/bin/env bash
# Makes presets/own, presets fitted to generated voices, and presets/own_drawn, as many drawn from their Gaussian.
#
#     scripts/make_presets.sh [--overwrite] [key=value …]
#
# Arguments are settings of main.py for every fit, as epochs=100. Twenty voices are fitted normally, four with settings
# that make the harvest reject the run, each for another reason. Pairs and runs go to logs/own; the same command resumes.
# Existing sets are replaced with --overwrite only.
set -eu
overwrite=
settings=()
for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --overwrite) overwrite=--overwrite ;;
        *=*) settings+=("$argument") ;;
        *) echo "make_presets.sh: $argument: give settings of main.py as key=value, or --overwrite" >&2; exit 2 ;;
    esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHON=${PYTHON:-python}
work=logs/own
for set in presets/own presets/own_drawn; do
    if [ -e $set ] && [ -z "$overwrite" ]; then
        echo "make_presets.sh: $set exists; --overwrite replaces it" >&2
        exit 2
    fi
done

[ -d $work/pairs ] || "$PYTHON" scripts/make_pairs.py $work/pairs --count 24 --seconds 8
printf '%s\n' $work/pairs/voice_[01]? > $work/songs.txt
whole=(align=false chunk_duration=8 chunk_overlap=0.5)
scripts/train_medley.sh $work/songs.txt $work/runs start=signals epochs=40 optimiser.method=annealed \
    "${whole[@]}" --together 1 ${settings[@]+"${settings[@]}"}

spoil() { # VOICE key=value …
    [ -d "$work/runs/$1" ] && return
    timeout -s INT 60 "$PYTHON" main.py data_dir="$work/pairs/$1" log_dir="$work/runs/$1" "${whole[@]}" "${@:2}" || true
}
spoil voice_20 epochs=100000                       # terminated early
spoil voice_21 epochs=3 loss.weights=[10,5,5,2.5]  # its lowest loss is too high
spoil voice_22 epochs=1                            # its first loss is its lowest
spoil voice_23 epochs=3 optimiser.lr=0.1           # it fluctuates

"$PYTHON" scripts/get_params.py $work/runs presets/own 2020-01-01 $overwrite
sed -i "s|$PWD/||" presets/own/info.json
"$PYTHON" scripts/pca_trsfm.py presets/own
"$PYTHON" scripts/presets.py sample presets/own presets/own_drawn --count 20 $overwrite
