"""Training objectives: what each one needs of a dataset, and which options it uses.

To add an objective, add an entry here and its loss in `stages/training/losses.py`; the command, the checks and the evaluation follow.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ObjectiveFacts:
    """What the rest of training asks about an objective."""

    labels: bool  # the labels of the dataset are part of the loss
    task_teacher: bool  # the dataset must have teacher_logits
    masked: bool = False  # predicts masked tokens from the soft ids of masked text, instead of labels
    teacher_share: float  # default share of the teacher in the loss
    teacher_share_is_option: bool = False  # --kd-weight may change it
    ignored: tuple[str, ...] = ()  # fields of TrainOptions without effect: setting one is an error


OBJECTIVES: dict[str, ObjectiveFacts] = {
    "task": ObjectiveFacts(labels=True, task_teacher=False, teacher_share=0.0),
    "kd": ObjectiveFacts(labels=False, task_teacher=True, teacher_share=1.0),
    "task+kd": ObjectiveFacts(labels=True, task_teacher=True, teacher_share=0.5, teacher_share_is_option=True),
    "mlm": ObjectiveFacts(
        labels=False,
        task_teacher=False,
        masked=True,
        teacher_share=0.5,
        teacher_share_is_option=True,
        ignored=("inputs", "lam", "tail", "draws", "kd_temperature"),
    ),
}
