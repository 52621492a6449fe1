# The full-size network once through every stage, on drawn pictures: one training step, not a result.
# Run from the repository root. Weights: random, then a stand-in of yolov3.weights (same size, 80 classes).
set -e
OUT=logs/full-size
python data/synthesize_hands.py --out $OUT/data --train 16 --valid 0 --test 4 --size 416 --workers 2
python data/converter.py --root $OUT/data
printf "classes=1\ntrain=$OUT/data/train.txt\nvalid=$OUT/data/valid.txt\nnames=data/oxfordhand.names\n" > $OUT/full.data
python - <<'PY'
import numpy as np
rng = np.random.default_rng(0)
with open("logs/full-size/yolov3.weights", "wb") as file:  # 248,007,048 bytes, as the public file
    np.array(((0, 2, 0), 32013312), [("version", "<i4", 3), ("seen", "<i8")]).tofile(file)
    rng.normal(0.5, 0.1, 62_001_757).astype("<f4").tofile(file)
PY
for START in random stand-in; do
  FLAGS=$([ $START = stand-in ] && echo "--weights $OUT/yolov3.weights" || echo "")
  python train.py --model_def config/yolov3-hand.cfg --data $OUT/full.data --epochs 1 --batch_size 16 --lr 1e-5 --name full-size/$START --no-publish $FLAGS
  /usr/bin/time -v python test_prune.py --cfg config/yolov3-hand.cfg --weights logs/full-size/$START/last.pth --data $OUT/full.data \
      --percent 0.85 --out $OUT/$START-pruned --repeats 10
  python detect.py --cfg $OUT/$START-pruned/yolov3-pruned.cfg --weights $OUT/$START-pruned/yolov3-pruned.weights --source data/samples --out $OUT/$START-detect
done
