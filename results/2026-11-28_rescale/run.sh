# Where s is found (-sr --target-flops): gammas rescaled by 0.05 first, or as trained. Quarter-width yolov3 on EgoHands at 256 px, from a dense network of 50 epochs. Run from the repository root;
# data/hands/egohands.data as in ../2026-11-25_hands_slim. One thread, bfloat16. Each step that is done is passed over, a training that was stopped goes on.
set -e
export OMP_NUM_THREADS=1
DATA="--data data/hands/egohands.data"
HOW="--bf16 --n_cpu 0 --threads 1 --cache-gb 2 --no-publish --no-pictures --augment strong --mosaic 0.3 --weight_decay 2.5e-4 --batch_size 32 --seed 0"
CFG=config/yolov3-hand-w25.cfg
train() {  # NAME flags of train.py
    [ -f logs/$1/done ] && return
    if [ -f logs/$1/last.pth ]; then python train.py --resume logs/$1 --threads 1 --n_cpu 0
    else python train.py $DATA $HOW --name "$@"; fi
    touch logs/$1/done
}
sparse() {  # NAME flags of train.py
    train $1 --cfg $CFG -pre logs/claim-dense/best.pth -sr --warmup 0.5 --evaluation_interval 4 "${@:2}"
}
cut() {  # NAME share of the FLOPs
    [ -d logs/$1-cut ] || python test_prune.py --cfg $CFG --weights logs/$1/best.pth $DATA --target-flops $2 --repeats 0 --out logs/$1-cut
}
train claim-dense --cfg $CFG --weights none --epochs 50 --lr 4e-3 --warmup 2 --evaluation_interval 10
sparse sparse-rescaled --target-flops 0.28 --rescale 0.05 --epochs 12 --lr 3e-3
sparse sparse --target-flops 0.28 --rescale none --epochs 12 --lr 3e-3
cut sparse-rescaled 0.28
cut sparse 0.28
tune() {  # NAME flags of train.py
    train $1-tuned --cfg logs/$1-cut/prune_yolov3-hand-w25.cfg -pre logs/$1-cut/checkpoints/prune_yolov3-w25_ckpt.pth --warmup 0.5 "${@:2}"
}
# stopped after 12 epochs
tune sparse-rescaled --epochs 36 --lr 1e-3 --evaluation_interval 6 --teacher-cfg $CFG --teacher-weights logs/claim-dense/best.pth
tune sparse --epochs 20 --lr 2e-3 --evaluation_interval 5
# deeper, at the default rate
sparse deep-rescaled --target-flops 0.1 --rescale 0.05 --epochs 8 --lr 1e-3
sparse deep --target-flops 0.1 --rescale none --epochs 8 --lr 1e-3
cut deep-rescaled 0.1
cut deep 0.1
# times, on a machine with nothing else to do
FILES="logs/rescale/dense.xml logs/rescale/slim.xml logs/rescale/slim-int8.xml"
SLIM="--cfg logs/sparse-cut/prune_yolov3-hand-w25.cfg --weights logs/sparse-tuned/best.pth"
python export.py --cfg $CFG --weights logs/claim-dense/best.pth --format openvino --out logs/rescale/dense.xml
python export.py $SLIM --format openvino --out logs/rescale/slim.xml
python export.py $SLIM --format openvino --precision int8 $DATA --allow-slower --out logs/rescale/slim-int8.xml
unset OMP_NUM_THREADS
for SIZE in 256 416; do
    python -m benchmarks --only deploy --formats openvino --precisions float32 --files $FILES --size $SIZE --threads 2 --repeats 30 --out results/2026-11-28_rescale/at$SIZE
done
