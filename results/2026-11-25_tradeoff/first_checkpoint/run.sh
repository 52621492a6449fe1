# mAP against size from one sparse checkpoint, logs/egohands-ease2/best.pth of an earlier chain (2026-11-24_egohands_w25, in the history)run.sh. From the repository root, with
# the packages of requirements-optional.txt; two CPU cores. What was made is not made again, so a stopped run goes on with the same command.
set -e
COMMON="--cfg config/yolov3-hand-w25.cfg --weights logs/egohands-ease2/best.pth --data config/egohands.data --out output/tradeoff"
TUNE="--epochs 8 --lr 3e-3 --n_cpu 0 --threads 1 --cache-gb 2"

# cut, recalibrate, score: every method at every size
python -m benchmarks.tradeoff $COMMON --flops 0.5 0.45 0.35 0.3 0.25 0.2 0.15 --threads 1 --no-timing
# fine-tune alike (a run takes 10 to 15 minutes on one core; the calls can be shared out between processes)
tune() { # SEEDS SIZES METHODS...
    python -m benchmarks.tradeoff $COMMON --flops $2 --tune-flops $2 --tune "$TUNE" --seeds $1 --threads 1 --no-timing --methods "${@:3}"
}
tune "0 1" "0.3 0.25 0.2 0.15" "group, gamma" "Torch-Pruning BNScale"
tune "0 1" "0.5" "reference rule"
tune "0" "0.3 0.25 0.2 0.15" "reference rule"
tune "0" "0.25 0.2 0.15" "group, gamma-norm" "Torch-Pruning GroupNorm"
tune "0" "0.35" "group, gamma" "Torch-Pruning BNScale"
# time all of them in turn, on a quiet machine; writes tradeoff.csv and tradeoff.png
python -m benchmarks.tradeoff $COMMON --flops 0.5 0.45 0.35 0.3 0.25 0.2 0.15 --threads 2 --repeats 40
