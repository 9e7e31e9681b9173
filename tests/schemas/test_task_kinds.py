"""Task kinds: the objects behind `label_kind`."""

import numpy as np
import pytest

from textsmooth.schemas.task_kinds import CLASS, LABEL_KINDS, MASKED_TOKENS, NO_LABELS, SPAN, VALUE, LabelColumn, task_kind


@pytest.mark.parametrize("name", ["class", "value", "span", "mlm", None])
def test_a_kind_is_found_by_its_name(name: str | None) -> None:
    assert task_kind(name).name == name


def test_a_name_that_is_no_kind_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        task_kind("tokens")


def test_labels_of_a_dataset_are_a_column_or_answers() -> None:
    assert {name for name, kind in LABEL_KINDS.items() if kind.has_label_column} == {"class", "value"}
    assert [name for name, kind in LABEL_KINDS.items() if kind.has_answers] == ["span"]
    assert not any((kind.has_label_column or kind.has_answers) for kind in (MASKED_TOKENS, NO_LABELS))


def test_classes_are_numbers_from_0_and_minus_1_without_a_label() -> None:
    assert isinstance(CLASS, LabelColumn)
    cells = CLASS.from_cells(["yes", "", "0", "no"], ["no", "yes"])
    assert cells == ["yes", None, 0, "no"]
    labels = CLASS.to_array(cells, ["no", "yes"])
    assert labels.dtype == np.dtype(CLASS.label_dtype) and labels.tolist() == [1, -1, 0, 0]


def test_numbers_are_floats_and_nan_without_a_label() -> None:
    assert isinstance(VALUE, LabelColumn)
    labels = VALUE.to_array(VALUE.from_cells(["2.5", "", "-1"], None), None, missing=-1)
    assert labels.dtype == np.dtype(VALUE.label_dtype) and labels[0] == 2.5 and np.isnan(labels[1:]).all()


def test_a_student_has_one_output_per_class_a_number_or_start_and_end() -> None:
    assert [kind.output_names(("no", "yes")) for kind in (CLASS, VALUE, SPAN)] == [("no", "yes"), ("value",), ("start", "end")]
