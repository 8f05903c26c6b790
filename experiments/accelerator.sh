#!/usr/bin/env bash
# All that an accelerator is needed for, in order of worth, in the time there is.
#
#   bash experiments/accelerator.sh OUT SECONDS [ARCHIVE.tar...]
#
# Archives hold TFDS folders and are unpacked to $FSDD_DATA_DIR. A part that
# would outlast SECONDS is asked to save its state and stop; the same command goes
# on from there. OUT/summary.txt says how each part ended, OUT/*.log why.
#
# SCALE (gpu) and RECIPES (experiments/recipes) choose the flagfiles, ROWS the
# tables, BENCHMARK further flags of both benchmarks.
set -uo pipefail

if (($# < 2)); then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
out=$1 seconds=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
scale=${SCALE:-gpu}
recipes=${RECIPES:-$here/recipes}
rows=${ROWS:-cifar10:10 cifar10:1+50 imagenette_128:1+10}
columns='random real,1 Net,w/o Ada,w Ada,Pool,Baseline,w/o Pre-Train,w AE'
read -ra benchmark <<<"${BENCHMARK:-}"

mkdir -p "$out"
# Compiled programs are found again by a later part, and by a second call.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
failed=0

# part NAME MOST COMMAND...: at most MOST seconds, and no more than are left.
part() {
  local name=$1 most=$2 left=$((seconds - SECONDS)) start=$SECONDS
  shift 2
  if ((left < 5)); then
    echo "$name: no time left" >>"$out/summary.txt"
    return
  fi
  timeout --signal=TERM --kill-after=30 $((left < most ? left : most)) \
    "$@" >"$out/$name.log" 2>&1
  local status=$?
  case $status in
    0) status=done ;;
    124 | 75 | 143) status=stopped ;;
    *) failed=1 status="failed with $status" ;;
  esac
  echo "$name: $status after $((SECONDS - start)) s" | tee -a "$out/summary.txt"
}

table() {
  local name=$1 most=$2 row=$3
  shift 3
  part "$name" "$most" python "$here/table1.py" --scale="$scale" \
    --recipes="$recipes" --workdir="$out/tables" --rows="$row" "$@"
  # Each table has the same name; keep the one just written.
  for file in "$out"/tables/table1.*; do
    [[ -e $file ]] && mv "$file" "$out/$name.${file##*.}"
  done
}

for archive in "$@"; do
  part "unpack_$(basename "$archive" .tar)" 60 \
    tar --extract --file="$archive" --directory="${FSDD_DATA_DIR:?}"
done
part devices 60 python -c 'import jax; print(jax.devices())'
part choices 120 python "$here/benchmarks/choices.py" "${benchmark[@]}"
part roofline 90 python "$here/benchmarks/roofline.py" "${benchmark[@]}"
for row in $rows; do
  table "table_${row//[:+]/_}" 600 "$row" --columns="$columns" --repeats=5
done
first=${rows%% *}
part figure2 300 python "$here/figure2.py" --scale="$scale" \
  --recipes="$recipes" --workdir="$out/tables" --row="${first%%:*}" --repeats=5
# Whose spread over distilled sets is worth more than a further row.
for seed in 1 2; do
  table "table_${first//[:+]/_}_seed_$seed" 600 "$first" --columns="$columns" \
    --repeats=5 --target_flag="--seed=$seed"
done
for file in "$out"/tables/tasks/pretrain-*/translator.safetensors; do
  [[ -e $file ]] && cp "$file" "$out/translator.safetensors"
done
exit $failed
