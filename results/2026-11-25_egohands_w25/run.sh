# EgoHands, quarter-width YOLOv3 at 256 px: dense, sparse in two runs, cut to 30 % of the FLOPs, fine-tuned with the dense net as teacher, scored, written
# as the Darknet pair that is published. Run from the repository root; data/egohands is a link to the photographs. One thread a run, bfloat16.
set -e
CFG=config/yolov3-hand-w25.cfg
DATA=config/egohands.data
HERE=results/2026-11-25_egohands_w25
MACHINE="--n_cpu 1 --threads 1 --cache-gb 2 --bf16 --no-publish"

python train.py --model_def $CFG --data_config $DATA --epochs 22 --lr 3e-3 $MACHINE --name egohands-baseline
python train.py --model_def $CFG --data_config $DATA -pre logs/egohands-baseline/best.pth -sr --s 0.02 --s-schedule ease --epochs 12 --lr 3e-3 \
    --percent 0.6 $MACHINE --name egohands-sparse1
python train.py --model_def $CFG --data_config $DATA -pre logs/egohands-sparse1/best.pth -sr --s 0.04 --s-schedule ease --sparsity-weight flops \
    --epochs 10 --lr 3e-3 --percent 0.7 $MACHINE --name egohands-sparse2
python test_prune.py --cfg $CFG --weights logs/egohands-sparse2/best.pth --data $DATA --target-flops 0.3 --out logs/egohands-pruned --repeats 100 \
    --curve 6 --sensitivity 16
SLIM=logs/egohands-pruned/prune_yolov3-hand-w25.cfg
python train.py --model_def $SLIM --data_config $DATA -pre logs/egohands-pruned/checkpoints/prune_yolov3-w25_ckpt.pth --epochs 8 --lr 3e-3 $MACHINE \
    --weight_decay 2.5e-4 --clip 250 --teacher-cfg $CFG --teacher-weights logs/egohands-baseline/best.pth --name egohands-tuned
python test.py --model_def $CFG --weights_path logs/egohands-baseline/best.pth --data_config $DATA --json $HERE/test_dense.json --pr $HERE/pr_dense.png
python test.py --model_def $SLIM --weights_path logs/egohands-tuned/best.pth --data_config $DATA --json $HERE/test_tuned.json --pr $HERE/pr_tuned.png
python export.py --cfg $SLIM --weights logs/egohands-tuned/best.pth --out weights/egohands-slim.weights && mv weights/egohands-slim.cfg config/
PHOTOS=$(sed -n '1~40p' data/egohands/valid.txt | sed 's|^|data/egohands/|')
python detect.py --cfg config/egohands-slim.cfg --weights weights/egohands-slim.weights --source $PHOTOS --conf_thres 0.4 --out output/egohands
