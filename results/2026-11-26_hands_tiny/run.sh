# hands-slim without 18 of its 23 residual blocks, cut to 150 thousand parameters, tuned with hands-slim as teacher; then 8 bits. Run from the repository root;
# data/hands, data/egohands and data/handviews hold lists, photographs and labels. One thread, bfloat16. Each step that is done is passed over.
set -e
# former/: hands-slim as it was then, of 458 thousand parameters (config/ and weights/ of ae81023)
SLIM="--cfg former/hands-slim.cfg --weights former/hands-slim.weights"
CFG=logs/tiny-pruned/prune_hands-slim.cfg
[ -f $CFG ] || python test_prune.py $SLIM --data data/hands/hands.data --layers 18 --target-params 0.15M --recalibrate 20 --out logs/tiny-pruned --repeats 30 --threads 1 --n_cpu 0
RESUME=""
if [ -f logs/tiny-tuned/last.pth ]; then RESUME="--resume logs/tiny-tuned"; fi
python train.py --cfg $CFG -pre logs/tiny-pruned/checkpoints/prune_hands-slim_ckpt.pth --data data/hands/hands.data --epochs 60 --lr 2e-3 --warmup 2 --weight_decay 2.5e-4 \
    --augment strong --mosaic 0.3 --multiscale_training --evaluation_interval 2 --teacher-cfg former/hands-slim.cfg --teacher-weights former/hands-slim.weights \
    --n_cpu 0 --threads 1 --cache-gb 3 --bf16 --no-publish --seed 0 --name tiny-tuned $RESUME
python export.py --cfg $CFG --weights logs/tiny-tuned/best.pth --out weights/hands-tiny.weights && mv weights/hands-tiny.cfg config/
# ONNX Runtime is no faster in 8 bits at this width: the file is for its size, and for OpenVINO, which is
python export.py --cfg config/hands-tiny.cfg --weights weights/hands-tiny.weights --data data/hands/hands.data --format onnx --precision int8 --allow-slower --out weights/hands-tiny-int8.onnx
for PART in egohands handviews; do
    python test.py --cfg config/hands-tiny.cfg --weights weights/hands-tiny.weights --data data/hands/$PART.data --backend torch
    for RUNTIME in onnxruntime openvino; do
        python test.py --weights weights/hands-tiny-int8.onnx --data data/hands/$PART.data --backend $RUNTIME --json results/2026-11-26_hands_tiny/test_int8_${RUNTIME}_$PART.json
    done
done
