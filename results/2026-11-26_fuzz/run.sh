#!/usr/bin/env bash
# from the root of the checkout
nice -n 10 python -m tests.fuzz --cases 100000 --seed 20261126 --out output/fuzz --json output/fuzz.json
