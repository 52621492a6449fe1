# hands-slim anew: without 18 of its 23 residual blocks, tuned with its former self as teacher, then on hand-free pictures too; 8 bits. Run from the repository root;
# data/hands, data/egohands and data/handviews hold lists, photographs and labels; former/ holds hands-slim.cfg and hands-slim.weights as of ae81023 (../2026-11-25_hands_slim).
# One thread. Each step that is done is passed over.
set -e
FORMER="--cfg former/hands-slim.cfg --weights former/hands-slim.weights"
CFG=logs/slim-pruned/prune_hands-slim.cfg
TUNE="--weight_decay 2.5e-4 --augment strong --mosaic 0.3 --multiscale_training --n_cpu 0 --threads 1 --cache-gb 4 --no-publish --no-pictures"
[ -f $CFG ] || python test_prune.py $FORMER --data data/hands/hands.data --layers 18 --percent 0 --recalibrate 20 --out logs/slim-pruned --repeats 20 --threads 1 --n_cpu 0
# told to stop (SIGTERM) in its 20th epoch of 36; what follows goes on from the state that it saved
[ -f logs/slim-1/last.pth ] || python train.py --cfg $CFG -pre logs/slim-pruned/checkpoints/prune_hands-slim_ckpt.pth --data data/hands/hands.data --epochs 36 --lr 3e-3 --warmup 1 $TUNE \
    --evaluation_interval 4 --teacher-cfg former/hands-slim.cfg --teacher-weights former/hands-slim.weights --seed 0 --name slim-1
# pictures without a hand, faces and forearms among them: without the teacher, which takes some of them for hands
[ -f data/hand_free/train.txt ] || PYTHONPATH=. python results/2026-11-26_hands_slim/hand_free.py data/hands/hands.data data/hand_free
sed "s|^train=.*|train=data/hand_free/train.txt|; s|^valid=.*|valid=data/hands/valid.txt|; s|^names=.*|names=data/hands/hands.names|" data/hands/hands.data > data/hand_free/hands.data
[ -f logs/slim-2/best.pth ] || python train.py --cfg $CFG -pre logs/slim-1/last.pth --data data/hand_free/hands.data --epochs 15 --lr 1.4e-3 --warmup 0.2 $TUNE \
    --evaluation_interval 5 --seed 1 --name slim-2
python export.py --cfg $CFG --weights logs/slim-2/best.pth --out weights/hands-slim.weights && mv weights/hands-slim.cfg config/
python export.py --cfg config/hands-slim.cfg --weights weights/hands-slim.weights --data data/hands/hands.data --format onnx --precision int8 --allow-slower --out weights/hands-slim-int8.onnx
for PART in egohands handviews; do
    python test.py --cfg config/hands-slim.cfg --weights weights/hands-slim.weights --data data/hands/$PART.data --backend torch --json results/2026-11-26_hands_slim/test_$PART.json
    for RUNTIME in onnxruntime openvino; do
        python test.py --weights weights/hands-slim-int8.onnx --data data/hands/$PART.data --backend $RUNTIME --json results/2026-11-26_hands_slim/test_int8_${RUNTIME}_$PART.json
    done
done
# PALM=package: the unpacked folder of `npm pack @mediapipe/hands`
python -m benchmarks.hands --data data/hands/egohands.data data/hands/handviews.data --net former/hands-slim.cfg former/hands-slim.weights --net config/hands-slim.cfg weights/hands-slim.weights \
    --net config/hands-tiny.cfg weights/hands-tiny.weights --file weights/hands-slim-int8.onnx --file weights/hands-tiny-int8.onnx ${PALM:+--palm $PALM} --threads 1 --out results/2026-11-26_hands_slim
