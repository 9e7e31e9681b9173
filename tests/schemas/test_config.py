"""A value that cannot work is refused when the configuration is put together, and the message holds it."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.config import GenerateOptions, GenerationConfig
from textsmooth.schemas.errors import TextsmoothError, UsageError

WRONG: list[tuple[str, Any]] = [
    *(("topk", v) for v in (0, -1, 1.5, True, "8", None)),
    *(("rows_per_shard", v) for v in (0, -5, 2.0)),
    *(("mass", v) for v in (0.0, -0.5, 1.0001, math.inf, math.nan)),
    *(("temperatures", (1.0, v)) for v in (0.0, -2.0, math.inf, -math.inf, math.nan)),
    ("specials", "some"),
    ("dtype", "int8"),
    *(("max_length", v) for v in (0, -1, 3.0)),
    *(("max_batch_tokens", v) for v in (0, -1)),
]
CONTEXTS = ("masked", "masked:1", "masked:0", "masked:-2", "masked:2.5", "masked:02", "masked:99999", "Masked:2")
BY_CLASS: list[tuple[type, dict[str, Any], list[tuple[str, Any]]]] = [
    (
        GenerationConfig,
        {},
        [*WRONG, ("chunk_tokens", 0), ("codec", "zip"), *(("context", v) for v in CONTEXTS), ("long", "split"), ("dtype", None)],
    ),
    (
        GenerateOptions,
        {"corpus": "c"},
        [
            *WRONG,
            *(("context", v) for v in CONTEXTS),
            ("codec", "zip"),
            ("long", "split"),
            ("streaming", "maybe"),
            *(("stride", v) for v in (0, -1, 2.0)),
            ("limit", 0),
            ("limit", True),
            ("threads", 0),
            ("threads", 1.0),
            ("text_columns", ("a", "b", "c")),
            ("keep_columns", ("a", "a")),
        ],
    ),
]


def shown(value: Any) -> str:
    """How a message shows a value."""
    last = value[-1] if isinstance(value, tuple) else value
    return f"{last:g}" if isinstance(last, float) and not float(last).is_integer() else str(last).removesuffix(".0")


@pytest.mark.parametrize(("kind", "given", "name", "value"), [(k, g, n, v) for k, g, cases in BY_CLASS for n, v in cases])
def test_a_wrong_value_is_refused_with_the_value(kind: type, given: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(UsageError) as error:
        kind(**{**given, name: value})
    assert isinstance(error.value, TextsmoothError) and error.value.exit_code == 2
    expected = "3 times" if value == ("a", "b", "c") else shown(value)
    assert expected in str(error.value), error.value


def test_the_defaults_are_right() -> None:
    GenerationConfig()
    GenerateOptions(corpus="c")


@pytest.mark.parametrize("mass", [1e-9, 0.5, 1.0, 1])
def test_a_mass_inside_the_bounds_is_taken(mass: float) -> None:
    assert GenerationConfig(mass=mass).mass == mass


@pytest.mark.parametrize("stride", [0, -1, 5, 9, 100])
def test_a_stride_must_leave_room_in_a_window(stride: int) -> None:
    with pytest.raises(UsageError, match=f"stride .* not {stride}$"):
        GenerationConfig(long="window", stride=stride, max_length=10)
    assert GenerationConfig(long="window", stride=4, max_length=10).stride == 4


def test_what_does_not_go_together_is_refused() -> None:
    for kind, needed in ((GenerationConfig, {}), (GenerateOptions, {"corpus": "c"})):
        with pytest.raises(UsageError, match="--specials smoothed does not go with --context masked:2"):
            kind(**needed, specials="smoothed", context="masked:2")
    with pytest.raises(UsageError, match="--stride"):
        GenerateOptions(corpus="c", stride=3, long="truncate")


def test_passes() -> None:
    assert [GenerationConfig(context=c).passes for c in ("unmasked", "masked:2", "masked:15")] == [1, 2, 15]


def test_a_setting_that_came_later_leaves_older_digests_alone() -> None:
    assert "stride" not in GenerationConfig().to_json()
    assert GenerationConfig(long="window", stride=4).to_json()["stride"] == 4


def test_configurations_are_frozen() -> None:
    with pytest.raises(AttributeError):
        GenerationConfig().topk = 3  # type: ignore[misc]


def test_temperatures_are_sorted_once_each_and_1_is_not_stored() -> None:
    config = GenerationConfig(temperatures=(4, 1, 0.5, 4))
    assert config.temperatures == (0.5, 1.0, 4.0)
    assert config.extra_temperatures == (0.5, 4.0)
    assert GenerationConfig(temperatures=(2,)) == GenerationConfig(temperatures=(2.0, 2.0))


@given(
    topk=st.integers(1, 10**6),
    mass=st.floats(0, 1, exclude_min=True),
    temperatures=st.lists(st.floats(1e-3, 1e3), max_size=5),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    rows=st.integers(1, 10**9),
)
def test_a_configuration_survives_json(topk: int, mass: float, temperatures: list[float], dtype: Any, rows: int) -> None:
    config = GenerationConfig(topk=topk, mass=mass, temperatures=tuple(temperatures), dtype=dtype, rows_per_shard=rows)
    assert GenerationConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", ["corpus", "out", "teacher", "from_previous"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(name: str) -> None:
    for place in ("s3://KEY:SECRET@bucket/x", "s3://KEY:SEC/RET@bucket/x", "https://me:SECRET@host/x"):
        with pytest.raises(UsageError, match="do not belong in a URI") as told:
            GenerateOptions(**{"corpus": "demo", name: place})
        assert "SEC" not in str(told.value)
