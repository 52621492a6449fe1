# Cuts by measured time beside cuts by FLOPs, on OpenVINO. Run from the repository root on a quiet machine. DENSE: a trained checkpoint
# of config/yolov3-hand-w25.cfg (../2026-11-25_egohands_w25 makes one); DATA: its .data file. One thread.
# CPU_TIME=--cpu-time counts the seconds of the process alone, for a machine that others use as well.
set -e
DENSE=${DENSE:?checkpoint of config/yolov3-hand-w25.cfg}
DATA=${DATA:?.data file of EgoHands}
OUT=${OUT:-logs/latency}
export OMP_NUM_THREADS=1
mkdir -p "$OUT"
CFG=config/yolov3-hand-w25.cfg
NARROW="--cfg $CFG --weights $DENSE --data $DATA --n_cpu 0 --threads 1"
python -m benchmarks.latency "--target-latency 0.7" "--target-latency 0.5" "--target-latency 0.35" "--target-flops 0.7" "--target-flops 0.5" "--target-flops 0.3" \
    --runtime openvino --prune "$NARROW" $CPU_TIME --out "$OUT/w25-openvino"
python -m benchmarks.latency "--target-latency 0.7" "--target-latency 0.5" --runtime onnxruntime --prune "$NARROW --no-eval" --out "$OUT/w25-onnxruntime"
# the full size, by random weights and random importance: times do not depend on them
python - "$OUT/random.weights" << 'END'
import sys
import torch
from models import Darknet
torch.manual_seed(0)
net = Darknet("config/yolov3-hand.cfg")
for _, _, norm in net.convolutions():
    if norm is not None:
        torch.nn.init.uniform_(norm.weight, 0.05, 1.0)
net.save_darknet_weights(sys.argv[1])
END
WIDE="--cfg config/yolov3-hand.cfg --weights $OUT/random.weights --data $DATA --n_cpu 0 --threads 1 --no-eval --repeats 5"
python -m benchmarks.latency "--target-latency 0.5" "--target-latency 0.3" "--target-flops 0.5" "--target-flops 0.3" --runtime openvino --prune "$WIDE" $CPU_TIME \
    --repeats 5 --out "$OUT/full-openvino"
# cuts of the dense net as it is, each tuned alike
TUNE="--n_cpu 0 --threads 1 --cache-gb 2 --bf16 --no-publish --no-pictures --seed 0"
for CUT in "latency 0.7" "latency 0.5" "flops 0.5" "flops 0.3"; do
    NAME=tuned-${CUT% *}-${CUT#* }
    python test_prune.py $NARROW --target-$CUT --latency-backend openvino --out "$OUT/$NAME" --repeats 60
    python train.py --cfg "$OUT/$NAME/prune_yolov3-hand-w25.cfg" -pre "$OUT/$NAME/checkpoints/prune_yolov3-w25_ckpt.pth" --data "$DATA" --epochs 6 --lr 2e-3 $TUNE \
        --evaluation_interval 6 --name "latency-$NAME"
done
# sparse training for the cut first (s found on the way), then the cut, then tuning with the dense net as teacher
for CUT in "latency 0.42" "flops 0.3"; do
    NAME=sparse-${CUT% *}-${CUT#* }
    BACKEND=$([ "${CUT% *}" = latency ] && echo "--latency-backend openvino" || echo "")
    python train.py --cfg $CFG -pre "$DENSE" --data "$DATA" -sr --target-$CUT $BACKEND --epochs 6 --lr 1e-3 $TUNE --evaluation_interval 6 --name "$NAME"
    python test_prune.py --cfg $CFG --weights "logs/$NAME/best.pth" --data "$DATA" --target-$CUT --latency-backend openvino --out "$OUT/$NAME" --n_cpu 0 --threads 1 --repeats 200
    python train.py --cfg "$OUT/$NAME/prune_yolov3-hand-w25.cfg" -pre "$OUT/$NAME/checkpoints/prune_yolov3-w25_ckpt.pth" --data "$DATA" --epochs 4 --lr 3e-3 $TUNE \
        --weight_decay 2.5e-4 --clip 250 --teacher-cfg $CFG --teacher-weights "$DENSE" --evaluation_interval 4 --name "$NAME-tuned"
done
python -m benchmarks.latency "--target-latency 0.42" --runtime openvino --prune "--cfg $CFG --weights logs/sparse-latency-0.42/best.pth --data $DATA --n_cpu 0 --threads 1 --no-eval" \
    --out "$OUT/w25-sparse-openvino"
