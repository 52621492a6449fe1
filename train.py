"""Train a YOLO network from a Darknet cfg; with -sr, push its batch-norm gammas to zero for pruning.

    python train.py --model_def config/yolov3-hand.cfg
    python train.py --model_def config/yolov3-hand.cfg -sr --s 0.01
    python train.py --data new.yaml                     # makes a cfg for these classes
"""

import argparse

from utils import cli, signals
from utils.training.args import parse_train_args, train_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of train.py."""
    return parse_train_args(__doc__, argv)


def main() -> None:
    """Train, evaluate and save, epoch by epoch."""
    args = parse_args()
    # heavy imports come after parsing, so that --help and typing errors answer at once
    from models import Darknet
    from utils.deploy.darknet_export import export_darknet
    from utils.deploy.drawing import draw
    from utils.output import provisional
    from utils.pruning.prospect import Prospect
    from utils.training import pictures
    from utils.training.new_cfg import cfg_for_data
    from utils.training.restart import continued, remember
    from utils.training.resume import locked, resumed_options
    from utils.training.trainer import Trainer

    if (options := continued(train_options(vars(args)))) is None:
        return
    with locked(options), provisional():
        if options.output.resume:
            options = resumed_options(options)
        with cfg_for_data(options) as options:
            trainer = Trainer(options, Darknet, Prospect)
            remember(trainer.folder)
            trainer.announce()
            pictures.show_data(trainer, draw)
        result = None
        for epoch in range(trainer.state.epoch + 1, options.steps.epochs + 1):
            losses = trainer.train_one_epoch(epoch)
            result = trainer.evaluate(epoch)
            with signals.held():
                trainer.record(epoch, losses, result)
                trainer.save(epoch, result)
        pictures.show_net(trainer, result, draw)
        with signals.held():
            trainer.finish(export_darknet)


if __name__ == "__main__":
    cli.run(main, several_processes=True)
