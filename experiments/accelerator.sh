#!/usr/bin/env bash
# What an accelerator is needed for, in order of worth, in the time there is.
#
#   bash experiments/accelerator.sh OUT SECONDS
#
# Each part writes its figures before the next begins, and one that fails or
# outlasts its time does not stop the next. The same command goes on with what is
# missing, for another SECONDS.
#
#   1  versions, ceilings, a step of each stage under them, the choices
#   2  a cache of 5,000 subsets and 10,000 updates, on whitened images:
#      OUT/translator.safetensors
#   3  Table 1's row of CIFAR-10 at IPC 10 and 1, one seed, then three
#   4  Table 1's row of Imagenette at 128 x 128
#   5  Figure 2
#   6  the sets of part 3, first seed, scored by training (frepo)
#
# OUT has four files: summary.txt (how each part ended, after how long), parts.log
# (all that they print), tables.tar, and the translator.
#
# Variables:
#   LARGE, TARGET, TARGET_128  the data sets; by default tiny_imagenet_32, cifar10
#               and imagenette_128. npz:PATH needs NumPy alone.
#   WHEELS      a folder of wheels to install first, where nothing can be fetched
#   PARTS       which parts, by default '1 2 3 4 5 6'. Several calls with other OUT
#               may share WORK at once: parts 2 and 3, say. Without a translator,
#               part 3 makes the columns that need none.
#   TRANSLATOR  for parts 3, 5 and 6, where part 2 has made none: a file, or the name of
#               a shipped one, such as tiny_imagenet_32_wide_zca
#   TRANSLATOR_128  for part 4, whose images are too large to whiten; by default
#               tiny_imagenet_32_wide
#   SEEDS       of part 3, by default 0,1,2; the first has a table of its own
#   WORK        caches and checkpoints, about 6 GB; by default OUT/work
#   DRY=1       all of it at tiny sizes, on made-up images where none are named
#   PYTHON      by default python3
set -uo pipefail

if (($# != 2)); then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd) seconds=$2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
work=${WORK:-$out/work}
mkdir -p "$work/done"

# XLA's search among Triton's products can take a minute a program, and no step
# was faster by it.
export XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_triton_gemm=false}
# Where the package is not installed; unread prints would be lost by a kill.
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# Compiled programs, features and decoded images serve later parts and calls.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$work/compiled}
export FSDD_CACHE_DIR=${FSDD_CACHE_DIR:-$work/kept}

network='--width=128 --width_multiplier=2 --norm=none'
sizes='--batch_size=4 --ipc=10 --repeats=10'
roofline="$network $sizes --translator_width=64 --translator_blocks=3
  --max_synthetic=100 --max_images=2000"
choices="$network $sizes --translator_width=64 --translator_blocks=3
  --max_images=2000 --networks_at_once=1,4"
scale=gpu seeds=${SEEDS:-0,1,2} ipcs=1,2,5,10,20 seen=1,20 repeats=5 row_128=1+10
shipped_128=tiny_imagenet_32_wide
patience=1  # By how much parts may take longer.
if [[ ${DRY:-} ]]; then
  small='--width=8 --width_multiplier=2 --norm=none --batch_size=2 --ipc=1
    --repeats=2 --translator_width=4 --translator_blocks=1 --max_images=40'
  roofline="$small --max_synthetic=24 --matrix=256 --copied_mb=8"
  choices="$small --networks_at_once=1,2 --subsets=2 --steps_per_call=2"
  scale=dry seeds=${SEEDS:-0,1} ipcs=1,2 seen=1 repeats=2 row_128=1 patience=20
  shipped_128=''  # None is of networks so narrow.
fi
recipes=$here/recipes
failed=0

# Seconds that the processors worked for the parts until now.
processor_seconds() {
  awk 'NR == 2 { gsub(/[ms]/, " "); print int(60 * $1 + $2 + 60 * $3 + $4) }' \
    "$work/times.$$"
}

# part NAME MOST COMMAND...: at most MOST seconds, and no more than are left; one
# that is done is not run again.
part() {
  local name=$1 most=$((patience * $2)) start=$SECONDS
  local left=$((seconds - SECONDS))
  shift 2
  [[ -e $work/done/$name ]] && return
  if ((left < 5)); then
    echo "$name: no time left" | tee -a "$out/summary.txt"
    return 1
  fi
  echo "===== $name: $*" >>"$out/parts.log"
  local before processor
  times >"$work/times.$$"
  before=$(processor_seconds)
  timeout --signal=TERM --kill-after=20 $((left < most ? left : most)) \
    "$@" >>"$out/parts.log" 2>&1
  local status=$?
  times >"$work/times.$$"
  processor=$(($(processor_seconds) - before))
  case $status in
    0) status=done && touch "$work/done/$name" ;;
    124 | 137 | 143) status=stopped ;;
    *) failed=1 status="failed with $status" ;;
  esac
  echo "$name: $status after $((SECONDS - start)) s ($processor s of processors)" |
    tee -a "$out/summary.txt"
  [[ $status == done ]]
}

run() {  # run NAME MOST BINARY FLAG...
  local name=$1 most=$2 binary=$3
  shift 3
  part "$name" "$most" "$python" "$here/$binary" "$@"
}

flagfile() {
  echo "--flagfile=$recipes/${scale}_$1.flags"
}

# A table or figure, all of whose tasks run in one process.
table() {  # table NAME MOST BINARY DATA FLAG...
  local name=$1 most=$2 binary=$3 data=$4
  local own=$work/tables/$name
  shift 4
  # Tables share their tasks, but not their files, which have the same names.
  mkdir -p "$work/tables/tasks" "$own"
  ln -sfn ../tasks "$own/tasks"
  run "$name" "$most" "$binary" --scale="$scale" --recipes="$recipes" \
    --workdir="$own" --repeats="$repeats" --in_process \
    "${translator[@]}" "${image[@]}" --target_flag="--dataset=$data" "$@"
  local status=$? stem=$own/${binary%.py}
  if ((!status)); then
    mkdir -p "$work/results"
    for file in "$stem".{md,json,png}; do
      [[ -e $file ]] && cp "$file" "$work/results/$name.${file##*.}"
    done
    tar -cf "$out/tables.tar" -C "$work/results" .
  fi
}

made_up() {  # made_up NAME CLASSES SIZE: arrays of fractals, for a dry run.
  local path=$work/$1.npz
  [[ -e $path ]] || "$python" - "$path" "$2" "$3" <<'END' || exit
import sys

import numpy as np

from fsdd_jax.data import fractals

path, classes, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
arrays = {'class_names': [f'fractal {c}' for c in range(classes)]}
for draw, split in enumerate(('train', 'test')):
  images, labels = fractals.generate(
    classes,
    num_classes=classes,
    images_per_class=12,
    image_size=size,
    draw=draw,
  )
  arrays |= {f'{split}_images': images, f'{split}_labels': labels}
np.savez(path, **arrays)
END
  echo "npz:$path"
}

if [[ ${DRY:-} ]]; then
  LARGE=${LARGE:-$(made_up large 12 32)}
  TARGET=${TARGET:-$(made_up target 10 32)}
  TARGET_128=${TARGET_128:-$(made_up target_128 4 128)}
fi
large=${LARGE:-tiny_imagenet_32} target=${TARGET:-cifar10}
target_128=${TARGET_128:-imagenette_128}

measures() {
  part versions 60 "$python" -c '
import platform, jax, jaxlib, flax, numpy
print("Python", platform.python_version(), "jax", jax.__version__, "jaxlib",
      jaxlib.__version__, "flax", flax.__version__, "numpy", numpy.__version__)
print(jax.devices(), [d.device_kind for d in jax.devices()])
for device in jax.local_devices():
  print(device.memory_stats())'
  # shellcheck disable=SC2086
  run roofline 70 benchmarks/roofline.py $roofline
  # shellcheck disable=SC2086
  run choices 70 benchmarks/choices.py $choices
}

pretrain() {
  [[ -e $out/translator.safetensors ]] && return
  run cache 200 cache.py "$(flagfile cache)" --dataset="$large" \
    --folder="$work/cache"
  # Of a cache that is not complete it takes what is there. It ends by itself
  # before its time, since one that is stopped writes no translator.
  run pretrain 210 pretrain.py "$(flagfile pretrain)" --dataset="$large" \
    --cache="$work/cache" --available --max_seconds=$((patience * 170)) \
    --workdir="$work/pretrain" || return
  cp "$work/pretrain/translator.safetensors" "$out"
}

columns() {  # columns OTHER [MORE]: those of a translator first, if there is one.
  local found=$1
  [[ ${translator[*]} ]] && found="w Ada,w/o Ada,$1${2:+,$2}"
  echo "$found"
}

cifar10() {
  local prefix='' own each
  own=$(columns '1 Net,Baseline,Pool,random real' \
    'w/o Ada + labels,w/o Ada + Pool,w Ada + Pool,w/o Pre-Train')
  [[ ${translator[*]} ]] || prefix=plain_
  for each in "${seeds%%,*}" "$seeds"; do
    table "${prefix}cifar10_seeds_${each//,/_}" 300 table1.py "$target" \
      --rows=cifar10:10+1 --columns="$own" --seeds="$each"
  done
}

imagenette_128() {
  local image=() translator=() unwhitened=${TRANSLATOR_128:-$shipped_128}
  [[ $unwhitened ]] && translator=(--translator="$unwhitened")
  table imagenette_128 250 table1.py "$target_128" \
    --rows="imagenette_128:$row_128" --seeds=0 \
    --columns="$(columns '1 Net,Baseline,random real')"
}

figure2() {
  if [[ ! ${translator[*]} ]]; then
    echo 'figure2: no translator yet' | tee -a "$out/summary.txt"
    return
  fi
  table figure2 250 figure2.py "$target" --row=cifar10 --seen="$seen" \
    --ipcs="$ipcs"
}

trained() {
  table trained 250 table1.py "$target" --rows=cifar10:10+1 \
    --columns="$(columns '1 Net,Baseline,Pool,random real')" \
    --seeds="${seeds%%,*}" --protocols=frepo
}

if [[ ${WHEELS:-} ]]; then
  part packages 90 "$python" -m pip install --quiet --no-index --no-deps \
    "$WHEELS"/*.whl || exit
fi
names=(measures pretrain cifar10 imagenette_128 figure2 trained)
for number in ${PARTS:-1 2 3 4 5 6}; do
  # Without a translator, tables whiten as those with the one of part 2 do.
  translator=() image=(--target_flag=--zca)
  made=$out/translator.safetensors
  [[ -e $made ]] || made=${TRANSLATOR:-}
  [[ $made ]] && translator=(--translator="$made") image=()
  ${names[number - 1]}
done
exit $failed
