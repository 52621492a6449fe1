#!/usr/bin/env bash
# From the photographs to every table of this folder: yolov3-hand at full size, dense, sparse, cut, tuned, in 8 bits. Run from the repository root; data/hands holds
# hands.data (EgoHands and handviews, ../2026-11-25_hands_slim), egohands.data and handviews.data (its validation images apart). A step that is done is not done
# again, one that was stopped goes on; logs/headline/seconds.csv has the time of each. About three and a half hours on two
# cores of an AMD EPYC (AVX-512 with bf16).
set -e
DATA=${DATA:-data/hands}
OUT=${OUT:-logs/headline}
CFG=config/hands-full.cfg
DENSE=logs/full-256/best.pth
SPARSE=logs/full-sparse/best.pth
MACHINE="--n_cpu 0 --threads 2 --cache-gb 3 --bf16 --no-publish --no-pictures --seed 0"
export OMP_NUM_THREADS=2
mkdir -p "$OUT"

step() { # NAME command...
    local name=$1 begin=$SECONDS; shift
    [ -f "$OUT/$name.done" ] && return
    "$@" 2>&1 | tee -a "$OUT/$name.log"
    [ "${PIPESTATUS[0]}" = 0 ] || exit 1
    echo "$name,$((SECONDS - begin))" >> "$OUT/seconds.csv"
    touch "$OUT/$name.done"
}
train() { # NAME flags of train.py...
    local name=$1 resume=""; shift
    [ -f "logs/$name/last.pth" ] && resume="--resume logs/$name/last.pth"
    step "$name" python train.py --data "$DATA/hands.data" $MACHINE --save-minutes 3 --name "$name" "$@" $resume
}
cut() { # NAME flags of test_prune.py...
    local name=$1; shift
    step "$name" python test_prune.py --data "$DATA/hands.data" --n_cpu 0 --threads 2 --repeats 20 --out "logs/$name" "$@"
}
score() { # NAME CFG WEIGHTS flags of test.py...
    local name=$1 cfg=$2 weights=$3; shift 3
    for part in egohands handviews; do
        step "$name-$part" python test.py --cfg "$cfg" --weights "$weights" --data "$DATA/$part.data" --backend torch --threads 2 --json "$OUT/$name-$part.json" "$@"
    done
}

step cfg python config/create_hand_model.py --base yolov3 --size 256 --anchors-from "$DATA/train.txt" --out $CFG
# dense, from random weights: the same net at growing input sizes, which costs a third of training at 256 pixels throughout
train full-128 --cfg $CFG --weights none --img_size 128 --epochs 8 --lr 3e-3 --schedule constant --warmup 1 --evaluation_interval 8
train full-192 --cfg $CFG -pre logs/full-128/last.pth --img_size 192 --epochs 6 --lr 3e-3 --schedule constant --warmup 0.2 --evaluation_interval 6
train full-256 --cfg $CFG -pre logs/full-192/last.pth --epochs 6 --lr 3e-3 --warmup 0.2 --evaluation_interval 3
score dense $CFG $DENSE
# sparse training for 7 % of the FLOPs (s finds itself), the cut, and tuning: long without a teacher, which takes two thirds of an epoch's time, then short with the dense net as teacher.
# The net that is cut has the size it was trained sparse at, 192 pixels: so it is tuned; --multiscale_training shows it larger and smaller inputs as well
train full-sparse --cfg $CFG -pre $DENSE -sr --target-flops 0.07 --img_size 192 --epochs 6 --lr 1e-3 --evaluation_interval 6
cut full-cut --cfg $CFG --weights $SPARSE --target-flops 0.07
SLIM=logs/full-cut/prune_hands-full.cfg
TUNE="--weight_decay 2.5e-4 --augment strong"
train full-slim-1 --cfg $SLIM -pre logs/full-cut/checkpoints/prune_hands-full_ckpt.pth --epochs 30 --lr 2e-3 --warmup 0.5 $TUNE --mosaic 0.3 --multiscale_training --evaluation_interval 6
train full-slim-2 --cfg $SLIM -pre logs/full-slim-1/best.pth --epochs 8 --lr 1e-3 --warmup 0.2 $TUNE --evaluation_interval 4 --teacher-cfg $CFG --teacher-weights $DENSE
WEIGHTS=logs/full-slim-2/best.pth
score slim $SLIM $WEIGHTS --img_size 256
# 8 bits, then every file timed alternately, at the size of the table and at 416 pixels
step int8 python export.py --cfg $SLIM --weights $WEIGHTS --format openvino --precision int8 --img_size 256 --data "$DATA/hands.data" --threads 2 --out "$OUT/slim-int8.xml"
step float32 python export.py --cfg $SLIM --weights $WEIGHTS --format openvino --img_size 256 --data "$DATA/hands.data" --threads 2 --out "$OUT/slim.xml"
for part in egohands handviews; do
    step "int8-$part" python test.py --weights "$OUT/slim-int8.xml" --data "$DATA/$part.data" --threads 2 --json "$OUT/int8-$part.json"
done
FILES="--cfg $CFG --weights $DENSE --formats openvino --precisions float32 --files $OUT/slim.xml $OUT/slim-int8.xml --threads 2 --repeats 20"
step at256 python -m benchmarks --only deploy $FILES --data "$DATA/hands.data" --out "$OUT/at256"
step at416 python -m benchmarks --only deploy $FILES --size 416 --out "$OUT/at416"
