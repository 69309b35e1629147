#!/bin/sh
# The evaluation of the published model card with a model of ours: each block resumable, each with a page of its own.
#
#     sh benchmarks/card/card.sh REF OUT [free|systems|bulk|magnetic|gap ...]
#
# Settings: MODEL (mp20-small), NUM (1024) crystals of the free block, EACH (64) of each chemical system, CALLS (180)
# property calculations, MAGNETIC (the folder of a predictor, crystalsmith train --task property), GAP (one too; band-gap), POTENTIAL (7net-0),
# JOBS (0, all cores). With DRY=1 the commands are printed and nothing runs. What they ask for is explained in docs/card.md.
set -eu
if [ $# -lt 2 ]; then echo "usage: card.sh REF OUT [free|systems|bulk|magnetic|gap ...]" >&2; exit 2; fi
ref=$1; out=$2; shift 2
[ $# -gt 0 ] || set -- free systems bulk magnetic gap
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-mp20-small}
# A quarter of what is made fails the first tests; the budget of property calculations is on S.U.N. crystals.
wanted=$((4 * ${CALLS:-180}))

run() { if [ -n "${DRY:-}" ]; then echo "$*"; else "$@"; fi; }
make() { place=$1; shift; run crystalsmith generate "$place" --model "$model" --resume "$@"; }
judge() {
  place=$1; shift
  run crystalsmith evaluate "$place" --reference "$ref" --potential "${POTENTIAL:-7net-0}" --jobs "${JOBS:-0}" --resume "$@"
}

[ -n "${DRY:-}" ] || mkdir -p "$out"
for block in "$@"; do
  case $block in
  free)
    make "$out/free" --num "${NUM:-1024}" --seed 1
    judge "$out/free"
    ;;
  systems)
    list=$(python "$here/systems.py" "$ref")
    [ -n "${DRY:-}" ] || printf '%s\n' "$list" > "$out/systems.json"
    for system in $(printf '%s\n' "$list" | sed -n 's/^ *"\([A-Z][A-Za-z]*-[-A-Za-z]*\)",\{0,1\}$/\1/p'); do
      make "$out/systems/$system" --num "${EACH:-64}" --seed 1 --chemical-system "$system" --require-all
      judge "$out/systems/$system"
    done
    ;;
  bulk)
    make "$out/bulk" --num "$wanted" --seed 1 --property bulk_modulus=400 --guidance 2
    judge "$out/bulk" --bulk-modulus --require 'bulk_modulus>400'
    ;;
  magnetic)
    make "$out/magnetic" --num "$wanted" --seed 1 --property mag_density=0.2 --guidance 2
    judge "$out/magnetic" --predictor "${MAGNETIC:?a predictor of mag_density}" --require 'mag_density>0.2'
    ;;
  gap)
    make "$out/gap" --num "$wanted" --seed 1 --property band_gap=3 --guidance 2
    judge "$out/gap" --predictor "${GAP:-band-gap}" --require 'band_gap 2.5..3.5'
    ;;
  *)
    echo "There is no block $block; use free, systems, bulk, magnetic or gap." >&2
    exit 2
    ;;
  esac
done
