"""ReFilled: match relations between instances, then classify with the teacher's class centres."""

import typing
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from harness.common.metrics import NCM
from harness.methods.base import Epochs, Method, NotNegative, Positive, Stage
from harness.methods.mark import Mark
from harness.methods.schedules import Schedule, StepSchedule

NAME = "refilled"
Relation = Literal["tuple", "triplet", "one-negative"]


class Stage1Settings(Schedule):
    """Relation matching; the learning rate falls from lr to final_lr_ratio x lr along a cosine."""

    untunable: ClassVar[frozenset[str]] = Schedule.untunable | {"relation", "select_every"}

    final_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    relation: Relation = "tuple"
    tau1: Annotated[float, Field(ge=0.05)] = 4.0  # the loss leaves float32 below
    margin: Positive = 0.2
    negatives: Literal["all", "smallest"] = "all"
    weight: Positive | None = None  # by default 1000 for tuples, 500 for the other relations
    select_every: Epochs = 10


class Stage2Settings(StepSchedule):
    """Classification with the teacher's class centres as soft targets."""

    centers: Literal["global", "local"] = "global"
    tau2: Positive = 2.0
    lambd: NotNegative = 100.0
    tau_on: Literal["both", "teacher"] = "both"
    weighted: bool = False

    @model_validator(mode="after")
    def _local_centers_have_no_options(self) -> "Stage2Settings":
        if self.centers == "local" and (self.weighted or self.tau_on != "both"):
            raise ValueError("centers 'local' (2020-06) has no weighted or tau_on; use 'global'")
        return self


STAGES = (
    Stage(
        name="stage1",
        kind="stage1",
        schedule="stage1",
        switches=("ncm_centers", "last_look"),
        metric=NCM,
        trainer="harness.train.methods.stage1:RelationMatching",
    ),
    Stage(
        name="stage2",
        kind="stage2",
        schedule="stage2",
        switches=("center_images",),
        trainer="harness.train.methods.stage2:CenterTeaching",
    ),
)


MARKS = {
    "tuple": Mark("D", "vermilion"),
    "triplet": Mark("^", "orange", "-."),
    "one-negative": Mark("v", "orange", ":"),
}


def _method(relation: str | None) -> Method:
    """Return the method with this relation; None is the experiment's (stage1.relation)."""
    return Method(
        name=NAME if relation is None else f"{NAME}-{relation}",
        label="ReFilled ({stage1[relation]})",
        about="relations between instances (stage 1), then class centres as soft targets (stage 2)",
        formula="stage 1: weight KL(relations of T || relations of S); "
        "stage 2: CE + lambd KL(softmax(<phi_T, c> / tau2) || softmax(f_S / tau2))",
        paper="Ye, Lu, Zhan, CVPR 2020, releases of 2020-06 to 2022",
        stages=STAGES,
        settings={"stage1": Stage1Settings, "stage2": Stage2Settings},
        implied={} if relation is None else {"stage1": {"relation": relation}},
        needs=frozenset({"embedding", "logits"}),
        is_default=relation is None,
        variant_of=None if relation is None else NAME,
        mark=None if relation is None else MARKS[relation],  # else its variant's
    )


METHODS = tuple(map(_method, (None, *typing.get_args(Relation))))
