#!/usr/bin/env bash
# From the root of the checkout. Drawn hands: after `make demo` (baseline, cfg and data come from there; here the baseline was trained by one thread).
# EgoHands: weights/egohands-dense.pth is the dense net of ../2026-11-25_egohands_w25.
set -e
export OMP_NUM_THREADS=1
drawn() { # NAME START flags of the sparse training
    N=$1; START=$2; shift 2
    T="--data_config data/demo/demo.data --seed 0 --n_cpu 0 --threads 1 --no-publish --augment flip --batch_size 8 --warmup 0.25 --cache-gb 1 --lr 3e-3 --epochs 2"
    CFG=logs/demo/yolov3-tiny-demo.cfg
    python train.py --model_def $CFG -pre $START --name demo/$N-sparse $T -sr "$@"
    python test_prune.py --cfg $CFG --weights logs/demo/$N-sparse/best.pth --data data/demo/demo.data --target-flops 0.28 --recalibrate 0 --out logs/demo/$N-pruned --repeats 0
    python train.py --model_def logs/demo/$N-pruned/prune_yolov3-tiny-demo.cfg -pre logs/demo/$N-pruned/checkpoints/prune_yolov3-tiny-demo_ckpt.pth --name demo/$N-tuned $T
}
drawn hand logs/demo/baseline/best.pth --s 0.04 --sparsity prox
drawn found logs/demo/baseline/best.pth --target-flops 0.28
drawn plain logs/demo/baseline/best.pth --target-flops 0.28 --rescale none
python train.py --model_def logs/demo/yolov3-tiny-demo.cfg -pre logs/demo/baseline/best.pth --data config/egohands.data --epochs 1 --lr 1e-3 --batch_size 8 --warmup 0.25 \
    --seed 0 --n_cpu 0 --threads 1 --no-publish --name demo/elsewhere
drawn elsewhere logs/demo/elsewhere/best.pth --target-flops 0.28

egohands() { # NAME flags of the sparse training
    N=$1; shift
    CFG=config/yolov3-hand-w25.cfg; DENSE=weights/egohands-dense.pth
    M="--data_config config/egohands.data --n_cpu 0 --threads 1 --cache-gb 2 --bf16 --no-publish"
    python train.py --model_def $CFG -pre $DENSE -sr "$@" --epochs 6 $M --evaluation_interval 3 --name $N-sparse
    python test_prune.py --cfg $CFG --weights logs/$N-sparse/best.pth --data config/egohands.data --target-flops 0.3 --out logs/$N-pruned --repeats 0
    python train.py --model_def logs/$N-pruned/prune_yolov3-hand-w25.cfg -pre logs/$N-pruned/checkpoints/prune_yolov3-w25_ckpt.pth --epochs 4 --lr 3e-3 $M --evaluation_interval 4 \
        --weight_decay 2.5e-4 --clip 250 --teacher-cfg $CFG --teacher-weights $DENSE --name $N-tuned
}
egohands hand --s 0.04 --s-schedule ease --sparsity-weight flops --lr 3e-3
egohands found --target-flops 0.3 --lr 1e-3

# on another processor, without --bf16, its dense net trained there (22 epochs, --lr 3e-3, as in ../2026-11-25_egohands_w25)
longer() { # NAME START sparse-epochs tuned-epochs flags of the sparse training...
    CFG=config/yolov3-hand-w25.cfg; DENSE=logs/dense-0/best.pth
    M="--data_config config/egohands.data --n_cpu 0 --threads 1 --cache-gb 2 --no-publish"
    python train.py --model_def $CFG -pre $2 -sr --target-flops 0.3 --lr 1e-3 --epochs $3 $M --name $1-sparse ${@:5}
    python test_prune.py --cfg $CFG --weights logs/$1-sparse/best.pth --data config/egohands.data --target-flops 0.3 --out logs/$1-pruned --repeats 0
    python train.py --model_def logs/$1-pruned/prune_yolov3-hand-w25.cfg -pre logs/$1-pruned/checkpoints/prune_yolov3-w25_ckpt.pth --epochs $4 --lr 3e-3 $M \
        --weight_decay 2.5e-4 --clip 250 --teacher-cfg $CFG --teacher-weights $DENSE --name $1-tuned
}
longer found-12 logs/dense-0/best.pth 12 8
python train.py --resume logs/found-12-tuned --epochs 18
python train.py --model_def config/yolov3-hand-w25.cfg -pre logs/dense-0/best.pth --data data/hands/handviews.data --epochs 2 --lr 1e-3 --warmup 0.3 --n_cpu 0 --threads 1 --no-publish --name elsewhere
longer elsewhere logs/elsewhere/best.pth 6 4
longer elsewhere-12 logs/elsewhere/best.pth 12 18
longer plain-12 logs/dense-0/best.pth 12 18 --rescale none
