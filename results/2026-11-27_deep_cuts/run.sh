# Half-width yolov3 on hands at 192 px: dense, sparse for 10 % of the FLOPs with the cut planned by |gamma| and by gamma-norm, cut to 10 and 5 %, tuned. Run from the repository root; data/hands/hands.data as in
# ../2026-11-25_hands_slim. One thread, bfloat16. Each step that is done is passed over, a training that was stopped goes on.
set -e
export OMP_NUM_THREADS=1
DATA="--data data/hands/hands.data --img_size 192"
HOW="--bf16 --n_cpu 0 --threads 1 --cache-gb 3 --no-publish --no-pictures --seed 0"
CFG=logs/half.cfg
[ -f $CFG ] || python config/create_hand_model.py --base yolov3 --width 0.5 --classes 1 --size 192 --anchors-from data/hands/train.txt --out $CFG
train() {  # NAME flags of train.py
    [ -f logs/$1/done ] && return
    if [ -f logs/$1/last.pth ]; then python train.py --resume logs/$1 --threads 1 --n_cpu 0
    else python train.py $DATA $HOW --name "$@"; fi
    touch logs/$1/done
}
cut() {  # NAME SPARSE flags of test_prune.py
    [ -d logs/half-cut-$1 ] || python test_prune.py --cfg $CFG --weights logs/half-$2/best.pth $DATA --repeats 0 --batch_size 32 --out logs/half-cut-$1 "${@:3}"
    train half-tuned-$1 --cfg logs/half-cut-$1/prune_half.cfg -pre logs/half-cut-$1/checkpoints/prune_half_ckpt.pth --batch_size 32 --epochs 10 --lr 2e-3 --warmup 0.5 --weight_decay 2.5e-4 --evaluation_interval 5
}
SPARSE="--cfg $CFG -pre logs/half-dense/best.pth -sr --target-flops 0.1 --batch_size 32 --epochs 6 --lr 2e-3 --weight_decay 5e-4 --warmup 0.5 --evaluation_interval 3"
train half-dense --cfg $CFG --weights none --batch_size 16 --epochs 9 --lr 4e-3 --warmup 1 --evaluation_interval 3
train half-sparse $SPARSE       # at commit 8e73fc2, where -sr --target-flops planned the cut by |gamma|
cut gamma sparse --target-flops 0.05 --score gamma
cut gamma-norm sparse --target-flops 0.05 --score gamma-norm
cut taylor sparse --target-flops 0.05 --score taylor  # its tuning was stopped after 3 epochs
cut zeros-0.1 sparse --target-flops 0.1 --score gamma
train half-sparse-norm $SPARSE  # as it plans now, by gamma-norm
cut norm-norm sparse-norm --target-flops 0.05 --score gamma-norm
cut norm-zeros-0.1 sparse-norm --target-flops 0.1 --score gamma-norm
