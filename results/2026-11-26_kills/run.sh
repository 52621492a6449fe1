#!/usr/bin/env bash
# from the root of the checkout; the same as make kill-test
OMP_NUM_THREADS=1 python -m tests.kill --kills 20 --seed 0 --out output/kills.json
