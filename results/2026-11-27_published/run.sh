# The published detectors beside yolov3-hand at full size: scores on all validation pictures, times at two input sizes. Run from the repository root on a machine with nothing else to do;
# data/hands/hands.data as in ../2026-11-25_hands_slim. The full-size net is timed with random weights (times do not depend on them); its scores are those of ../2026-11-26_gpu (full-dense).
set -e
HERE=results/2026-11-27_published
DENSE="--cfg logs/published/yolov3-hands.cfg --weights logs/published/random.weights"
mkdir -p logs/published
python config/create_hand_model.py --base yolov3 --size 256 --anchors-from data/hands/train.txt --out logs/published/yolov3-hands.cfg
PYTHONPATH=. python - <<'PY'
import torch
from models import Darknet
torch.manual_seed(0)
net = Darknet("logs/published/yolov3-hands.cfg").train()
with torch.no_grad():
    for _ in range(30):  # statistics, without which values grow from layer to layer
        net(torch.rand(2, 3, 128, 128))
net.eval().save_darknet_weights("logs/published/random.weights")
PY
for NAME in hands-slim hands-tiny; do
    NET="--cfg config/$NAME.cfg --weights weights/$NAME.weights"
    python test.py $NET --data data/hands/hands.data --backend torch --json $HERE/$NAME.json
    python test.py --weights weights/$NAME-int8.onnx --data data/hands/hands.data --backend openvino --json $HERE/$NAME-int8.json
    python export.py $NET --format openvino --out logs/published/$NAME.xml
done
for SIZE in 256 416; do
    python -m benchmarks --only deploy $DENSE --formats openvino --precisions float32 --files logs/published/hands-slim.xml logs/published/hands-tiny.xml \
        weights/hands-slim-int8.onnx weights/hands-tiny-int8.onnx --size $SIZE --threads 2 --repeats 30 --out $HERE/at$SIZE
done
