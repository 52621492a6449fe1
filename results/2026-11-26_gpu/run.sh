# On one GPU: the full-size net dense, three dense nets of quarter width, both published detectors tuned on. Run from the repository root; data/hands holds hands.data,
# egohands.data and handviews.data (../2026-11-25_hands_slim); weights/ the detectors of ../2026-11-26_hands_slim and ../2026-11-26_hands_tiny, former/ a copy of hands-slim.weights.
# Each step that is done is passed over.
set -e
export OMP_NUM_THREADS=1
HERE=results/2026-11-26_gpu
FULL=logs/full.cfg
W25=config/yolov3-hand-w25.cfg
TUNE="--weight_decay 2.5e-4 --augment strong --mosaic 0.3"
train() { # NAME flags of train.py...
    local name=$1; shift
    [ -f "logs/$name/best.pth" ] && return
    python train.py --bf16 --n_cpu 4 --threads 1 --cache-gb 1 --no-publish --no-pictures --save_interval 100 --evaluation_interval 29 --name "$name" "$@"
}
[ -f $FULL ] || python config/create_hand_model.py --base yolov3 --size 256 --anchors-from data/hands/train.txt --out $FULL
# begun with a schedule of 36 epochs, told to stop (SIGTERM) in its 14th; the second training goes on from its state
[ -f logs/full-dense0/last.pth ] || train full-dense0 --cfg $FULL --data data/hands/hands.data --weights none --batch_size 32 --epochs 36 --lr 5e-3 --warmup 2 --augment strong --mosaic 0.3
train full-dense --cfg $FULL --data data/hands/hands.data -pre logs/full-dense0/last.pth --batch_size 128 --epochs 15 --lr 1e-2 --warmup 0.3 --augment strong --mosaic 0.3
for PART in egohands handviews; do
    python test.py --cfg $FULL --weights logs/full-dense/best.pth --data data/hands/$PART.data --backend torch --json $HERE/test_dense_$PART.json
done
# EgoHands, quarter width: the published recipe's dense net, and three seeds trained for longer
train ego-dense --cfg $W25 --data data/hands/egohands.data --weights none --batch_size 16 --epochs 22 --lr 3e-3
for SEED in 0 1 2; do
    train q$SEED-dense --cfg $W25 --data data/hands/egohands.data --weights none --batch_size 32 --epochs 50 --lr 4e-3 --warmup 2 $TUNE --seed $SEED
done
# the detectors, on hand-free pictures too
[ -f data/hand_free/train.txt ] || PYTHONPATH=. python results/2026-11-26_hands_slim/hand_free.py data/hands/hands.data data/hand_free
sed "s|^train=.*|train=data/hand_free/train.txt|; s|^valid=.*|valid=data/hands/valid.txt|; s|^names=.*|names=data/hands/hands.names|" data/hands/hands.data > data/hand_free/hands.data
train tiny --cfg config/hands-tiny.cfg --data data/hand_free/hands.data -pre weights/hands-tiny.weights --batch_size 64 --epochs 40 --lr 4e-3 --warmup 0.5 $TUNE
train slim --cfg config/hands-slim.cfg --data data/hand_free/hands.data -pre weights/hands-slim.weights --batch_size 64 --epochs 30 --lr 3e-3 --warmup 0.5 $TUNE --teacher-cfg $FULL --teacher-weights logs/full-dense/best.pth
python export.py --cfg config/hands-tiny.cfg --weights logs/tiny/best.pth --out weights/hands-tiny.weights && rm weights/hands-tiny.cfg
PYTHONPATH=. python $HERE/interpolate.py config/hands-slim.cfg former/hands-slim.weights logs/slim/best.pth 0.5 weights/hands-slim.weights
for NAME in slim tiny; do
    NET="--cfg config/hands-$NAME.cfg --weights weights/hands-$NAME.weights"
    python export.py $NET --data data/hands/hands.data --format onnx --precision int8 --allow-slower --out weights/hands-$NAME-int8.onnx
    for PART in egohands handviews; do
        python test.py $NET --data data/hands/$PART.data --backend torch --json $HERE/test_${NAME}_$PART.json
        for RUNTIME in onnxruntime openvino; do
            python test.py --weights weights/hands-$NAME-int8.onnx --data data/hands/$PART.data --backend $RUNTIME --json $HERE/test_int8_${NAME}_${RUNTIME}_$PART.json
        done
    done
done
python -m benchmarks.hands --data data/hands/egohands.data data/hands/handviews.data --net config/hands-slim.cfg weights/hands-slim.weights --net config/hands-tiny.cfg weights/hands-tiny.weights \
    --file weights/hands-slim-int8.onnx --file weights/hands-tiny-int8.onnx --threads 1 --out $HERE
