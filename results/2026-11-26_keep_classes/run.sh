# Yolo-Fastest of 80 COCO classes as a detector of persons alone, on pictures whose labels are not used: the dense net's
# own boxes stand for them. Run from the repository root. PAIR: folder with yolo-fastest-1.1.cfg, its .weights and
# coco.names; PHOTOS: folder with train.txt and valid.txt, lists of pictures relative to it. One thread.
set -e
PAIR=${PAIR:?folder of the Yolo-Fastest pair}
PHOTOS=${PHOTOS:?folder with train.txt and valid.txt}
OUT=${OUT:-logs/keep_classes}
PYTHON=${PYTHON:-python}
mkdir -p "$OUT"
cp "$PAIR/yolo-fastest-1.1.cfg" "$PAIR/yolo-fastest-1.1.weights" "$OUT/"
cp "$PAIR/coco.names" "$OUT/yolo-fastest-1.1.names"
awk -v p="$PHOTOS" 'NR % 6 == 1 {print p "/" $0}' "$PHOTOS/train.txt" > "$OUT/train.txt"
awk -v p="$PHOTOS" 'NR % 4 == 1 {print p "/" $0}' "$PHOTOS/valid.txt" > "$OUT/valid.txt"
printf 'train: train.txt\nval: valid.txt\nnames: [person]\n' > "$OUT/people.yaml"
NET="--cfg $OUT/yolo-fastest-1.1.cfg --weights $OUT/yolo-fastest-1.1.weights"
COMMON="--data $OUT/people.yaml --keep-classes person --unlabelled --n_cpu 0 --threads 1"
for SCORE in gamma taylor; do
    $PYTHON test_prune.py $NET $COMMON --score $SCORE --target-flops 0.7 --out "$OUT/$SCORE" --repeats 30
    $PYTHON train.py --cfg "$OUT/$SCORE/prune_yolo-fastest-1.1.cfg" \
        -pre "$OUT/$SCORE/checkpoints/prune_yolo-fastest-1.1_ckpt.pth" $COMMON --teacher-cfg "$OUT/yolo-fastest-1.1.cfg" \
        --teacher-weights "$OUT/yolo-fastest-1.1.weights" --epochs 3 --lr 1e-3 --batch_size 8 --no-publish \
        --no-pictures --name "keep_classes-$SCORE"
done
