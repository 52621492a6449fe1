# The well trained full-size net of ../2026-11-26_gpu (logs/full.cfg, logs/full-dense/best.pth) made sparse and cut on a GPU, tuned and exported on a CPU. Run from the repository root;
# data/hands/hands.data as in ../2026-11-25_hands_slim. Each step that is done is passed over, a training that was stopped goes on.
set -e
export OMP_NUM_THREADS=1
DATA="--data data/hands/hands.data"
[ -f logs/full-sparse/best.pth ] || python train.py --cfg logs/full.cfg -pre logs/full-dense/best.pth $DATA -sr --target-flops 0.03 --epochs 10 --batch_size 64 --lr 2e-3 --weight_decay 5e-4 --warmup 1 \
    --bf16 --n_cpu 4 --threads 1 --no-publish --no-pictures --name full-sparse
[ -d logs/full-cut ] || python test_prune.py --cfg logs/full.cfg --weights logs/full-sparse/best.pth $DATA --no-eval --target-flops 0.0667 --batch_size 32 --repeats 0 --out logs/full-cut
NET="--cfg logs/full-cut/prune_full.cfg"
if [ -f logs/full-tuned/last.pth ]; then python train.py --resume logs/full-tuned --threads 1 --n_cpu 0
else python train.py $NET -pre logs/full-cut/checkpoints/prune_full_ckpt.pth $DATA --epochs 24 --lr 2e-3 --warmup 0.5 --batch_size 32 --weight_decay 2.5e-4 --augment strong --mosaic 0.3 \
    --evaluation_interval 6 --seed 0 --n_cpu 0 --threads 1 --cache-gb 3 --no-publish --no-pictures --name full-tuned; fi
python test.py $NET --weights logs/full-tuned/best.pth $DATA
python export.py $NET --weights logs/full-tuned/best.pth --format openvino --out logs/full-tuned.xml
python export.py $NET --weights logs/full-tuned/best.pth $DATA --format openvino --precision int8 --allow-slower --out logs/full-tuned-int8.xml
# times, beside the dense net with random weights (logs/published of ../2026-11-27_published)
python export.py --cfg logs/published/yolov3-hands.cfg --weights logs/published/random.weights --format openvino --out logs/published/dense.xml
for SIZE in 256 416; do
    python results/2026-11-27_tuning/alternate.py $SIZE logs/published/dense.xml logs/full-tuned.xml logs/full-tuned-int8.xml
done
# deeper cuts of the sparse net, tuned alike
for SHARE in 0.0333 0.015; do
    [ -d logs/full-cut-$SHARE ] || python test_prune.py --cfg logs/full.cfg --weights logs/full-sparse/best.pth $DATA --no-eval --target-flops $SHARE --batch_size 32 --repeats 0 --out logs/full-cut-$SHARE
done
TP=logs/full-cut-tp-0.0333/nets/Torch-Pruning-BNScale-0.0333
[ -d $TP ] || python -m benchmarks.tradeoff --cfg logs/full.cfg --weights logs/full-sparse/best.pth $DATA --methods 'Torch-Pruning BNScale' --flops 0.0333 --threads 2 --no-timing --out logs/full-cut-tp-0.0333
tune() {  # NAME CFG WEIGHTS LR
    if [ -f logs/$1/last.pth ]; then python train.py --resume logs/$1 --threads 1 --n_cpu 0
    else python train.py --cfg $2 --weights $3 $DATA --epochs 24 --lr $4 --warmup 0.5 --batch_size 32 --weight_decay 2.5e-4 --augment strong --mosaic 0.3 \
        --evaluation_interval 6 --seed 0 --n_cpu 0 --threads 1 --cache-gb 3 --no-publish --no-pictures --name $1; fi
}
tune deeper-gamma logs/full-cut-0.0333/prune_full.cfg logs/full-cut-0.0333/checkpoints/prune_full_ckpt.pth 2e-3
tune deeper-torch-pruning $TP/net.cfg $TP/net.pth 2e-3
tune deepest-gamma logs/full-cut-0.015/prune_full.cfg logs/full-cut-0.015/checkpoints/prune_full_ckpt.pth 2e-3
tune deeper-gamma-random logs/full-cut-0.0333/prune_full.cfg none 4e-3
# the ranking decides the shape: the cut at the zeros cut again, to the same FLOPs
again() {  # NAME FLAGS
    python test_prune.py $NET --weights logs/full-cut/checkpoints/prune_full_ckpt.pth $DATA --target-flops 0.6486 "${@:2}" --repeats 0 --batch_size 32 --out logs/again-$1
}
again gamma --score gamma
again gamma-norm --score gamma-norm
again keep-0.3 --layer-keep 0.3
tune deeper-gamma-norm-random logs/again-gamma-norm/prune2_full.cfg none 4e-3  # stopped after 12 epochs, as deeper-gamma-random after 13
