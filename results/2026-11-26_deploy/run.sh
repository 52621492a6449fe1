# Every file x every runtime of hands-slim and hands-tiny, and the dense yolov3-hand at full size, by two threads. Run from the repository root on a machine with
# nothing else to do (about ten minutes on two cores); data/hands holds lists, photographs and labels. PALM=package takes MediaPipe's palm detector in, as the last
# line of a table says. Further words go to every run: bash results/2026-11-26_deploy/run.sh --repeats 3
set -e
HERE=$(dirname "$0")
SCORED="--data data/hands/hands.data --images ${IMAGES:-218}"

run() {
    name=$1; shift
    python -m benchmarks --only deploy --threads 2 --out logs/deploy/$name "$@"
    cp logs/deploy/$name/table.md $HERE/$name.md
    cp logs/deploy/$name/results.json $HERE/$name.json
}

# random weights: for time alone
run yolov3-hand --cfg config/yolov3-hand.cfg --formats openvino darknet --precisions float32 int8 --repeats 12 "$@"
run hands-slim --cfg config/hands-slim.cfg --weights weights/hands-slim.weights $SCORED --repeats 20 ${PALM:+--palm $PALM} "$@"
run hands-tiny --cfg config/hands-tiny.cfg --weights weights/hands-tiny.weights $SCORED --repeats 20 --formats openvino ncnn darknet --precisions float32 int8 \
    --files weights/hands-tiny-int8.onnx "$@"
