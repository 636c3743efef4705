#!/usr/bin/env bash
# Makes the built-in pair, dry.flac and wet.ogg, beside this script: a synthesised singer, and the same take mixed.
# Needs espeak-ng 1.51, sox 14.4 and ffmpeg 5. The words and the tune were written for this file.
set -euo pipefail
out=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

beat=0.37 # seconds

# word, the synthesiser's pitch (beside it the note, measured at a pitch range of 0 %), beats, gain in dB;
# "-" is a rest, "<" a breath taken in
song() {
    sed 's/#.*//' << 'END'
-      0 1   0
<      0 1 -35
slow  70 2  -2  # A3
light 80 1   0  # B3
on    90 1   0  # C sharp 4
the   80 1  -2
sea   70 3  -1
<      0 1 -37
come  53 1  -1  # F sharp 3
and   70 1  -2
turn  80 1   0
for   70 1  -2
home  42 4   1  # E3
-      0 1   0
<      0 1 -33
leave 70 2   1
the   80 1   0
lamp  90 1   2
on    95 1   3  # D4
low   90 3   3
<      0 1 -35
sing  80 2   1
it    70 1  -2
back  53 1   0
to    42 1  -2
me    53 4   0
-      0 2   0
<      0 1 -39
sing  42 2  -9
it    53 1 -10
back  59 1  -8  # G3
to    53 1 -10
me    30 4 -10  # D3
-      0 2   0
END
}

sox() { command sox -V1 "$@"; } # errors only

calc() { awk "BEGIN { print ($1) }"; }

# say SPEED PITCH WORD: one word on one pitch, without the silence around it, into word.wav
say() {
    espeak-ng -v en-us+f3 -m -s "$1" -p "$2" -w raw.wav "<prosody range='0%'>$3</prosody>"
    sox raw.wav word.wav silence 1 0.005 0.3% reverse silence 1 0.005 0.3% reverse
}

# sung FILE WORD PITCH SECONDS GAIN: the speaking speed brings the word near its length, stretching does the rest
sung() {
    say 100 "$3" "$2"
    say "$(calc "(s = int(102 * $(soxi -D word.wav) / $4)) < 80 ? 80 : s")" "$3" "$2"
    sox word.wav -r 44100 long.wav tempo -s "$(calc "1.02 * $(soxi -D word.wav) / $4")"
    sox long.wav pad.wav pad 0 1
    sox pad.wav "$1" trim 0 "$4" fade q 0.004 "$4" "$(calc "$4 > 1 ? 0.25 : 0.03")" gain "$5"
}

breath() { # FILE SECONDS GAIN
    sox -R -n -r 44100 -c 1 "$1" synth "$2" pinknoise bandpass 1800 1200h equalizer 6000 1q 6 \
        fade q "$(calc "0.7 * $2")" "$2" 0.06 gain -n "$3"
}

count=100
while read -r word pitch beats gain; do
    count=$((count + 1))
    seconds=$(calc "$beats * $beat")
    case $word in
        -) sox -n -r 44100 -c 1 $count.wav trim 0 "$seconds" ;;
        "<") breath $count.wav "$seconds" "$gain" ;;
        *) sung $count.wav "$word" "$pitch" "$seconds" "$gain" ;;
    esac
done < <(song)
sox [0-9]*.wav line.wav

# Dry: a light vibrato, and above the synthesiser's 11 kHz the air of a real voice: its sibilants driven into overtones,
# and noise that follows its level (noise times voice).
ffmpeg -v error -i line.wav -f lavfi -i anoisesrc=r=44100:seed=1:a=1 -filter_complex "
    [0]vibrato=f=5.3:d=0.07,asplit=3[voice][bright][level];
    [bright]highpass=f=5000,volume=24dB,asoftclip=type=tanh,highpass=f=10000,highpass=f=10000,volume=-18dB[overtones];
    [level][1]amultiply=,highpass=f=6000,lowpass=f=13000,volume=-25dB[air];
    [voice][overtones][air]amix=inputs=3:normalize=0:duration=first" -c:a pcm_f32le voice.wav
sox -R voice.wav -b 16 "$out/dry.flac" highpass 60 gain -n -4 dither

# Wet: equaliser and compressor, then a ping-pong echo and a reverb beside the direct sound.
ffmpeg -v error -i "$out/dry.flac" -af "
    highpass=f=110,equalizer=f=260:t=q:w=1:g=-4,equalizer=f=3200:t=q:w=0.9:g=4,highshelf=f=9000:g=5,
    acompressor=threshold=-24dB:ratio=4:attack=8:release=120:knee=1:makeup=6dB" -c:a pcm_f32le direct.wav
ffmpeg -v error -i direct.wav -filter_complex "
    lowpass=f=5000,asplit=4[a][b][c][d];
    [a]adelay=370,volume=0.24[l1]; [b]adelay=740,lowpass=f=4500,volume=0.13[r1];
    [c]adelay=1110,lowpass=f=3500,volume=0.07[l2]; [d]adelay=1480,lowpass=f=3000,volume=0.04[r2];
    [l1][l2]amix=inputs=2:normalize=0[l]; [r1][r2]amix=inputs=2:normalize=0[r];
    [l][r]join=inputs=2:channel_layout=stereo" -c:a pcm_f32le echo.wav
sox direct.wav -c 2 -e floating-point -b 32 room.wav highpass 250 remix 1 1 reverb -w 55 45 90 100 18 -6
sox direct.wav centre.wav remix 1 1
sox -m -v 1 centre.wav -v 1 echo.wav -v 1 room.wav -C 8 "$out/wet.ogg" gain -n -1 trim 0 "$(soxi -D "$out/dry.flac")"
