"""What a student keeps that was trained on the teacher's task first."""

from dataclasses import replace

from harness.methods.base import SUPERVISED, TRAINING, Method, Stage

NAME = "finetune"

METHODS = (
    Method(
        name=NAME,
        label="Fine-tuning",
        about="no distillation: the same network, trained on the teacher's task, goes on",
        formula="CE on the teacher's task, then CE with another last layer",
        paper="Yosinski, Clune, Bengio, Lipson, NeurIPS 2014, arXiv 1411.1792",
        stages=(
            replace(SUPERVISED, name="pretrain", task="teacher"),
            Stage(
                name=NAME,
                kind=NAME,
                schedule=TRAINING,
                new_head=True,
                trainer=SUPERVISED.trainer,
            ),
        ),
    ),
)
