"""The steps: data in, data out. Know neither ray nor click, and run where there is only torch, transformers, pyarrow, numpy.

For a training loop of one's own: `from textsmooth.stages import SmoothedDataset, SmoothedCollator, SoftEmbedding`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsmooth.stages.dataset.collate import SmoothedCollator as SmoothedCollator
    from textsmooth.stages.dataset.dataset import SmoothedDataset as SmoothedDataset
    from textsmooth.stages.dataset.mlm_collate import MaskedCollator as MaskedCollator
    from textsmooth.stages.training.soft_embedding import SoftEmbedding as SoftEmbedding
    from textsmooth.stages.training.soft_embedding import smooth_inputs as smooth_inputs

_NAMES = {
    "MaskedCollator": "dataset.mlm_collate",
    "SmoothedCollator": "dataset.collate",
    "SmoothedDataset": "dataset.dataset",
    "SoftEmbedding": "training.soft_embedding",
    "smooth_inputs": "training.soft_embedding",
}
__all__ = ["MaskedCollator", "SmoothedCollator", "SmoothedDataset", "SoftEmbedding", "smooth_inputs"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]
