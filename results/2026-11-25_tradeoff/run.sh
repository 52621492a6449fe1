# mAP against size from one sparse checkpoint, logs/egohands-sparse2/best.pth of results/2026-11-25_egohands_w25/run.sh. From the repository root, with
# the packages of requirements-optional.txt; two CPU cores. What was made is not made again, so a stopped run goes on with the same command.
set -e
COMMON="--cfg config/yolov3-hand-w25.cfg --weights logs/egohands-sparse2/best.pth --data config/egohands.data --out output/tradeoff"
SIZES="0.5 0.45 0.4 0.35 0.325 0.3 0.275 0.25 0.225 0.2 0.15"
TUNE="--epochs 8 --lr 3e-3 --n_cpu 0 --threads 1 --cache-gb 2 --bf16"

# cut, recalibrate, score: every method at every size
python -m benchmarks.tradeoff $COMMON --flops $SIZES --threads 1 --no-timing
# fine-tune alike (a run takes 5 to 8 minutes on one core; the calls can be shared out between processes)
tune() { # SIZES METHODS...
    python -m benchmarks.tradeoff $COMMON --flops $1 --tune-flops $1 --tune "$TUNE" --seeds 0 1 --threads 1 --no-timing --methods "${@:2}"
}
tune "0.3 0.25 0.225 0.2" "group, gamma" "Torch-Pruning BNScale"
tune "0.5" "reference rule"
# time all of them, on a quiet machine; writes tradeoff.csv and tradeoff.png
python -m benchmarks.tradeoff $COMMON --flops $SIZES --threads 2 --repeats 40
