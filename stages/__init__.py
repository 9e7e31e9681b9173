"""The steps: data in, data out. Know neither ray nor click, and run where there is only torch, transformers, pyarrow, numpy.

For a training loop of one's own: `from textsmooth.stages import SmoothedDataset, SmoothedCollator, SoftEmbedding`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsmooth.stages.collate import SmoothedCollator as SmoothedCollator
    from textsmooth.stages.masking import MaskedCollator as MaskedCollator
    from textsmooth.stages.smooth import SoftEmbedding as SoftEmbedding
    from textsmooth.stages.smooth import smooth_inputs as smooth_inputs
    from textsmooth.stages.stream import SmoothedDataset as SmoothedDataset

_NAMES = {
    "MaskedCollator": "masking",
    "SmoothedCollator": "collate",
    "SmoothedDataset": "stream",
    "SoftEmbedding": "smooth",
    "smooth_inputs": "smooth",
}
__all__ = ["MaskedCollator", "SmoothedCollator", "SmoothedDataset", "SoftEmbedding", "smooth_inputs"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]
