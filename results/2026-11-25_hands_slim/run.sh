# The published slim shape (config/egohands-slim.cfg), trained on hands of two worlds: EgoHands and hands held before a camera. Run from the repository root; data/hands,
# data/egohands and data/handviews hold lists, photographs and labels. One thread, bfloat16.
set -e
ANCHORS=$(python config/create_hand_model.py --base yolov3 --width 0.25 --classes 1 --size 256 --anchors-from data/hands/train.txt --out logs/anchors.cfg \
    >/dev/null && grep -m1 ^anchors logs/anchors.cfg)
sed "s|^anchors=.*|$ANCHORS|" config/egohands-slim.cfg > logs/hands-slim.cfg
python train.py --cfg logs/hands-slim.cfg -pre weights/egohands-slim.weights --data data/hands/hands.data --epochs 40 --lr 2e-3 --warmup 2 --weight_decay 2.5e-4 \
    --augment strong --mosaic 0.3 --multiscale_training --evaluation_interval 2 --n_cpu 0 --threads 1 --cache-gb 3 --bf16 --no-publish --name hands-slim-1
for PART in egohands handviews; do
    python test.py --cfg logs/hands-slim.cfg --weights logs/hands-slim-1/best.pth --data data/$PART/$PART.data --backend torch
done
python export.py --cfg logs/hands-slim.cfg --weights logs/hands-slim-1/best.pth --out weights/hands-slim.weights && mv weights/hands-slim.cfg config/
