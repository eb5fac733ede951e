"""Fine-tuning: a student that was first trained on the teacher's task."""

from dataclasses import replace

from harness.methods.base import SUPERVISED, TRAINING, Method, Stage
from harness.methods.mark import Mark

NAME = "finetune"

METHODS = (
    Method(
        name=NAME,
        label="Fine-tuning",
        about="no distillation: trained on the teacher's task first, then on the student's own",
        formula="CE on the teacher's task, then CE with another last layer",
        paper="Yosinski, Clune, Bengio, Lipson, NeurIPS 2014, arXiv 1411.1792",
        mark=Mark("p", "black", "--"),
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
