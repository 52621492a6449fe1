"""python interpolate.py CFG ONE OTHER SHARE OUT: weights between two nets of one shape, ONE + SHARE x (OTHER - ONE), as
a Darknet file (Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models). Run from the repository root with
PYTHONPATH=."""
import sys

import torch

from models import Darknet
from utils.checkpoint import load_weights

cfg, *files, share, out = sys.argv[1:]
nets = [Darknet(cfg) for _ in files]
for net, file in zip(nets, files):
    load_weights(net, file)
states = [net.state_dict() for net in nets]
nets[1].load_state_dict({key: torch.lerp(states[0][key], value, float(share)) if value.is_floating_point() else value
                         for key, value in states[1].items()})
nets[1].save_darknet_weights(out)
