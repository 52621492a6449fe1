# EgoHands, quarter-width YOLOv3 at 256 px: from scratch to a pruned, fine-tuned Darknet pair. Run from the repository root;
# data/egohands is a link to the photographs (train.txt, valid.txt, images/, labels/). Two CPU cores, about three and a half hours in all.
set -e
CFG=config/yolov3-hand-w25.cfg
DATA=config/egohands.data
HERE=results/2026-11-24_egohands_w25
PHOTOS=$(sed -n '1~40p' data/egohands/valid.txt | sed 's|^|data/egohands/|')

# dense
python train.py --model_def $CFG --data_config $DATA --epochs 22 --lr 3e-3 --n_cpu 2 --name egohands-baseline
# sparse, in two runs: a gentle one, then a stronger one that presses on what costs most
python train.py --model_def $CFG --data_config $DATA -pre logs/egohands-baseline/best.pth -sr --s 0.02 --sparsity prox --s-schedule ease --rescale auto \
    --epochs 12 --lr 3e-3 --percent 0.6 --n_cpu 1 --threads 1 --name egohands-ease
python train.py --model_def $CFG --data_config $DATA -pre logs/egohands-ease/best.pth -sr --s 0.04 --sparsity prox --s-schedule ease --rescale auto \
    --sparsity-weight flops --epochs 10 --lr 3e-3 --percent 0.7 --n_cpu 1 --threads 1 --name egohands-ease2
# cut to 30 % of the FLOPs, fine-tune, score, look
python test_prune.py --cfg $CFG --weights logs/egohands-ease2/best.pth --data $DATA --target-flops 0.3 --recalibrate 0 \
    --out logs/egohands-pruned2 --repeats 100
SLIM=logs/egohands-pruned2/prune_yolov3-hand-w25.cfg
python train.py --model_def $SLIM --data_config $DATA -pre logs/egohands-pruned2/checkpoints/prune_yolov3-w25_ckpt.pth --epochs 12 --lr 3e-3 \
    --n_cpu 1 --threads 1 --name egohands-tuned2
python test.py --model_def $CFG --weights_path logs/egohands-baseline/best.pth --data_config $DATA --json $HERE/test_dense.json --pr $HERE/pr_dense.png
python test.py --model_def $CFG --weights_path logs/egohands-ease/best.pth --data_config $DATA --json $HERE/sparse-ease/test.json --pr $HERE/sparse-ease/pr.png
python test.py --model_def $SLIM --weights_path logs/egohands-tuned2/best.pth --data_config $DATA --json $HERE/tuned-ease2/test.json \
    --pr $HERE/tuned-ease2/pr.png
python detect.py --cfg $SLIM --weights logs/egohands-tuned2/best.pth --source $PHOTOS --conf_thres 0.4 --out output/egohands2

# the other chain: sparsity that was too strong for its epochs, and a deeper cut
python train.py --model_def $CFG --data_config $DATA -pre logs/egohands-baseline/best.pth -sr --s 0.06 --sparsity prox --rescale auto \
    --epochs 13 --lr 3e-3 --percent 0.7 --n_cpu 2 --name egohands-sparse
python test_prune.py --cfg $CFG --weights logs/egohands-sparse/best.pth --data $DATA --percent 0.7 --out logs/egohands-pruned --repeats 100
SLIM=logs/egohands-pruned/prune_yolov3-hand-w25.cfg
python train.py --model_def $SLIM --data_config $DATA -pre logs/egohands-pruned/checkpoints/prune_yolov3-w25_ckpt.pth --epochs 13 --lr 3e-3 \
    --n_cpu 2 --name egohands-tuned
python test.py --model_def $SLIM --weights_path logs/egohands-tuned/best.pth --data_config $DATA --json $HERE/tuned/test.json --pr $HERE/tuned/pr.png
python detect.py --cfg $SLIM --weights logs/egohands-tuned/best.pth --source $PHOTOS --conf_thres 0.4 --out output/egohands
