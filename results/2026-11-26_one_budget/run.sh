# One command from the dense net to a pruned, fine-tuned net in 8 bits that lost at most 0.01 of its mAP@.5. Run from the repository root;
# data/egohands holds the photographs, weights/egohands-dense.pth is the best epoch of ../2026-11-25_egohands_w25/baseline-again.
OMP_NUM_THREADS=1 python test_prune.py --cfg config/yolov3-hand-w25.cfg --weights weights/egohands-dense.pth --data config/egohands.data \
    --max-drop 0.01 --int8 --target-flops 0.75 --score taylor --recalibrate 20 --repeats 40 --out pruned/budget --n_cpu 1 --threads 1 --cache-gb 2 \
    --tune "--epochs 5 --lr 2e-3 --weight_decay 2.5e-4 --clip 250 --bf16 --evaluation_interval 5 --no-pictures \
    --teacher-cfg config/yolov3-hand-w25.cfg --teacher-weights weights/egohands-dense.pth"
