# One flag changed at a time: the cut of a sparse quarter-width net to 12 % of its FLOPs and 4 epochs of fine-tuning, on EgoHands. Run from the repository root, after
# ../2026-11-27_tuning/run.sh, which makes logs/sparse; a variant that is done is passed over.
set -e
export OMP_NUM_THREADS=1
W25=config/yolov3-hand-w25.cfg
DATA=data/hands/egohands.data
variant() { # NAME "flags of train.py" flags of test_prune.py...
    local name=$1 tune=$2; shift 2
    [ -f "logs/ablations/$name.done" ] && return 0
    [ -d "logs/ablations/$name-cut" ] || python test_prune.py --cfg $W25 --weights logs/sparse/best.pth --data $DATA --target-flops 0.12 --out "logs/ablations/$name-cut" --repeats 0 \
        --n_cpu 0 --threads 1 --cache-gb 1 "$@" || return 0
    python train.py --cfg "logs/ablations/$name-cut/prune_yolov3-hand-w25.cfg" -pre "logs/ablations/$name-cut/checkpoints/prune_yolov3-w25_ckpt.pth" --data $DATA --epochs 4 --batch_size 32 \
        --lr 1e-3 --weight_decay 2.5e-4 --augment strong --mosaic 0.3 --warmup 0.5 --evaluation_interval 4 --seed 0 --n_cpu 0 --threads 1 --cache-gb 3 --no-publish --no-pictures \
        --name "ablations/$name" $tune
    touch "logs/ablations/$name.done"
}
mkdir -p logs/ablations
variant base ""
variant recalibrate-0 "" --recalibrate 0
variant skip "" --strategy skip
variant fold-bias "" --fold bias --recalibrate 0
variant gamma-norm "" --score gamma-norm
variant l1 "" --score l1
variant taylor "" --score taylor
variant random "" --score random
variant divisor-8 "" --divisor 8
variant divisor-16 "" --divisor 16
variant group-mean "" --group-norm mean
variant teacher "--teacher-cfg $W25 --teacher-weights logs/q0-dense/best.pth"
variant lr-4e-3 "--lr 4e-3"
