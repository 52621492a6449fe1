# A deep cut of the quarter-width net on EgoHands, tuned at two rates, beside its shape from random weights. Run from the repository root; data/hands/egohands.data as in
# ../2026-11-25_hands_slim. logs/q0-dense is the dense net of ../2026-11-26_gpu (q0-dense), logs/first-sparse was trained there as well, in bfloat16; the rest on a CPU, one thread.
# Each step that is done is passed over, one that was stopped goes on.
set -e
export OMP_NUM_THREADS=1
W25=config/yolov3-hand-w25.cfg
DATA=data/hands/egohands.data
train() { # NAME flags of train.py...
    local name=$1; shift
    [ -f "logs/$name.done" ] && return
    if [ -f "logs/$name/last.pth" ]; then python train.py --resume "logs/$name" --threads 1 --n_cpu 0
    else python train.py --data $DATA --batch_size 32 --n_cpu 0 --threads 1 --cache-gb 3 --no-publish --no-pictures --seed 0 --name "$name" "$@"; fi
    touch "logs/$name.done"
}
cut() { # NAME WEIGHTS
    [ -d "logs/$1" ] || python test_prune.py --cfg $W25 --weights "$2" --data $DATA --n_cpu 0 --threads 1 --batch_size 32 --repeats 0 --target-flops 0.12 --out "logs/$1"
}
[ -f logs/first-sparse/best.pth ] || train first-sparse --cfg $W25 -pre logs/q0-dense/best.pth -sr --target-flops 0.08 --epochs 16 --lr 1.5e-3 --bf16
cut cut logs/first-sparse/best.pth
SHAPE=logs/cut/prune_yolov3-hand-w25.cfg
FROM="-pre logs/cut/checkpoints/prune_yolov3-w25_ckpt.pth --epochs 32 --warmup 0.5"
TUNE="--weight_decay 2.5e-4 --augment strong --mosaic 0.3 --evaluation_interval 8"
train lr-4e-3 --cfg $SHAPE $FROM $TUNE --lr 4e-3
train lr-1e-3 --cfg $SHAPE $FROM $TUNE --lr 1e-3
train lr-4e-3-teacher --cfg $SHAPE $FROM $TUNE --lr 4e-3 --teacher-cfg $W25 --teacher-weights logs/q0-dense/best.pth
train random-weights --cfg $SHAPE --weights none --epochs 98 --warmup 2 $TUNE --lr 4e-3 # told to stop after 18 epochs
# sparse training with a penalty by FLOPs, and the same with gammas as trained and a first s a fifth as strong (FIRST, FIRST_STEPS = 0.5, 100000 in utils/training/strength.py)
SPARSE="--cfg $W25 -pre logs/q0-dense/best.pth -sr --target-flops 0.12 --sparsity-weight flops --epochs 14 --lr 1.5e-3 --weight_decay 5e-4 --warmup 1 --evaluation_interval 5"
train sparse $SPARSE
train sparse-gradual $SPARSE --rescale none # told to stop after 8 epochs
cut sparse-cut logs/sparse/best.pth
train sparse-tuned --cfg logs/sparse-cut/prune_yolov3-hand-w25.cfg -pre logs/sparse-cut/checkpoints/prune_yolov3-w25_ckpt.pth --epochs 8 --warmup 0.5 $TUNE --lr 1e-3
# that cut for longer, with a teacher, and its shape from random weights for as many epochs
SHAPE=logs/sparse-cut/prune_yolov3-hand-w25.cfg
START="-pre logs/sparse-cut/checkpoints/prune_yolov3-w25_ckpt.pth --warmup 0.5 --lr 1e-3"
TEACHER="--teacher-cfg $W25 --teacher-weights logs/q0-dense/best.pth"
train milder-8-teacher --cfg $SHAPE $START $TUNE $TEACHER --epochs 8
train milder-teacher --cfg $SHAPE $START $TUNE $TEACHER --epochs 40
# milder-long: milder-teacher, copied to logs/milder-long, then python train.py --resume logs/milder-long --epochs 90 --threads 1 --n_cpu 0
train milder-random --cfg $SHAPE --weights none $TUNE --lr 4e-3 --epochs 54
train milder-random-teacher --cfg $SHAPE --weights none $TUNE $TEACHER --lr 4e-3 --epochs 54
train milder-8-standard --cfg $SHAPE $START $TUNE $TEACHER --epochs 8 --augment standard --mosaic 0
# random-frames: egohands-frames.data lists the same 2,200 pictures, train.txt and then valid.txt, shuffled by random.Random(0), the last 1,800 to train on
train random-frames --data data/hands/egohands-frames.data --cfg $SHAPE --weights none $TUNE --lr 4e-3 --epochs 54
# milder-8-attention: the flags of milder-8-teacher with milder-8-attention/attention.patch applied (git apply, at 49860ff), AT_GAIN=10, AT_LAYERS=36,61,74,80,92,104
# times: the files below by alternate.py (in processes of their own: the last command)
python export.py --cfg $W25 --weights logs/q0-dense/best.pth --format openvino --out logs/dense.xml
python export.py --cfg $SHAPE --weights logs/milder-long/best.pth --format openvino --out logs/milder-long.xml
python export.py --cfg $SHAPE --weights logs/milder-long/best.pth --format onnx --precision int8 --data $DATA --out logs/milder-long-int8.onnx --max-drop 1 --allow-slower
for SIZE in 256 416; do
    python results/2026-11-27_tuning/alternate.py $SIZE logs/dense.xml logs/milder-long.xml logs/milder-long-int8.onnx
    python -m benchmarks --only deploy --cfg $W25 --weights logs/q0-dense/best.pth --formats openvino --precisions float32 --files logs/milder-long.xml logs/milder-long-int8.onnx --size $SIZE --threads 2 --repeats 60
done
