"""The teacher: token ids in, logits of the wanted tokens out, in chunks of one fixed size.

Legend: B rows of a batch, L padded length, N tokens of a chunk, H hidden, V vocabulary.

The vocabulary projection runs only over tokens that are kept. To stay generic it is the model's own head: the model is called a
second time with its encoder replaced by one that hands over the hidden states of those tokens.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textsmooth.schemas.canonical import digest, file_sha256
from textsmooth.schemas.errors import TeacherError, first_line
from textsmooth.stages.tokenize import TokenRows

log = logging.getLogger(__name__)

TYPICAL_CHUNK = 256  # tokens of a projection: what packed weights are laid out for


def teacher_digest(folder: Path) -> str:
    """sha256 over the configuration and the safetensors weights in a model's folder. TeacherError if there are none."""
    weights = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if not config.is_file():
        raise TeacherError(f"{folder} is not a model folder: it has no config.json")
    if not weights:
        raise TeacherError(f"{folder} has no *.safetensors weights; save the model as safetensors (pickled weights are not read)")
    others = [file for name in ("model.safetensors.index.json", "adapter_config.json") if (file := folder / name).is_file()]
    return digest({file.name: file_sha256(file) for file in [config, *others, *weights]})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what they say is checked and said in our own words."""
    from transformers.utils import logging as hf

    before, bar = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(before)
        if bar:
            hf.enable_progress_bar()


def load_checked(auto_class: Any, folder: Path, *, allow_new: tuple[str, ...] = (), **kwargs: Any) -> Any:
    """`from_pretrained` from a local folder, safetensors only, where newly initialised weights are an error.

    allow_new: prefixes of weights that may be missing. Raises TeacherError in one line.
    """
    with _quiet():
        try:
            model, info = auto_class.from_pretrained(
                str(folder),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, in one line
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **kwargs,
            )
        except Exception as error:
            raise TeacherError(f"cannot load the model in {folder}: {first_line(error)}") from error
    absent = {*info["missing_keys"], *(mismatch[0] for mismatch in info["mismatched_keys"])}
    missing = sorted(key for key in absent if not (allow_new and key.startswith(allow_new)))
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TeacherError(
            f"the model in {folder} lacks weights that {type(model).__name__} needs ({missing[0]}{others}): "
            "they would be random; use a checkpoint that has them"
        )
    return model


class _PackedLinear(nn.Module):
    """A linear layer with its weights in the layout of oneDNN's kernels."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight, TYPICAL_CHUNK)
        self.bias = linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


class _Given(nn.Module):
    """Stands in for the encoder: returns the hidden states it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.hidden)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one forward pass, of similar length."""

    rows: NDArray[np.int64]  # [B] which rows
    input_ids: Tensor  # [B, L] int64, padded
    attention_mask: Tensor  # [B, L] int64
    token_type_ids: Tensor | None  # [B, L] int64
    wanted: Tensor  # [B, L] bool: tokens whose logits are asked for
    positions: NDArray[np.int64]  # of the wanted tokens among all tokens, in row-major order


class Teacher:
    """A masked language model in eval mode.

    dtype: of weights and activations. Raises TeacherError if the folder holds no masked LM with trained head.
    """

    def __init__(self, folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        from transformers import AutoModelForMaskedLM

        self.device = torch.device(device)
        self.model = load_checked(AutoModelForMaskedLM, folder, dtype=dtype).eval().requires_grad_(False).to(self.device)
        prefix = self.model.base_model_prefix
        self.encoder = getattr(self.model, prefix)
        self._given = _Given()
        self._head = copy.copy(self.model)
        self._head._modules = {**self.model._modules, prefix: self._given}
        self.vocab_size = self._check_head(dtype)
        if self.device.type == "cpu":
            self._pack_projection()

    @torch.inference_mode()
    def _check_head(self, dtype: torch.dtype) -> int:
        """The width of the logits, after a look at whether head and encoder taken apart still say what the whole model says."""
        ids = torch.arange(5, 13, device=self.device)[None] % int(self.model.config.vocab_size)
        mask = torch.ones_like(ids)
        whole: Tensor = self.model(input_ids=ids, attention_mask=mask).logits[0].float()
        try:
            parts = self.project(self.encoder(input_ids=ids, attention_mask=mask)[0][0]).float()
            far = parts.shape != whole.shape or float((parts - whole).abs().max()) > 8 * torch.finfo(dtype).eps * float(whole.abs().max())
        except (RuntimeError, TypeError, AttributeError, ValueError):
            far = True
        if far:
            raise TeacherError(
                f"teachers of type {self.model.config.model_type!r} are not supported: "
                f"the head of {type(self.model).__name__} needs more than the hidden states"
            )
        return whole.shape[-1]

    @torch.inference_mode()
    def _pack_projection(self) -> None:
        """Lay the vocabulary's weights out for the CPU's matrix kernel once, not in every chunk; where it can, and agrees, to rounding."""
        linear = self._head.get_output_embeddings()
        if type(linear) is not nn.Linear:
            return
        places = [(parent, name) for parent in self._head.modules() for name, child in parent.named_children() if child is linear]
        hidden = torch.ones(TYPICAL_CHUNK, linear.in_features, dtype=linear.weight.dtype)
        try:
            packed = _PackedLinear(linear)
            there, here = linear(hidden).float(), packed(hidden).float()
        except (RuntimeError, AttributeError):  # an operator of torch's own compiler, not of its public interface
            return
        if torch.allclose(here, there, rtol=0, atol=8 * torch.finfo(linear.weight.dtype).eps * float(there.abs().max())):
            for parent, name in places:
                setattr(parent, name, packed)

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Tensor:
        """Hidden states of the wanted tokens, [N, H], in the order of `batch.positions`."""
        types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids.to(self.device)}
        ids, mask = batch.input_ids.to(self.device), batch.attention_mask.to(self.device)
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask, **types)[0]
        return hidden[batch.wanted.to(self.device)]

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, H], by the model's own head."""
        self._given.hidden = hidden[None]
        try:
            return self._head(input_ids=None, return_dict=True).logits[0]  # type: ignore[no-any-return]
        finally:
            self._given.hidden = None


def batches(rows: TokenRows, wanted: NDArray[np.bool_], *, max_batch_tokens: int, pad_id: int) -> Iterator[Batch]:
    """Cut rows, longest first, into batches of at most max_batch_tokens padded tokens (one row at least).

    wanted: [N] tokens whose logits are asked for. Rows of equal length keep their order: equal rows, equal batches.
    """
    lengths = np.diff(rows.row_offsets)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        chosen = order[start : start + max(max_batch_tokens // longest, 1)]
        start += len(chosen)
        mask = np.arange(longest)[None, :] < lengths[chosen, None]  # [B, L]
        tokens = np.minimum(rows.row_offsets[chosen, None] + np.arange(longest)[None, :], len(rows.input_ids) - 1)

        def padded(values: NDArray[Any], fill: int, tokens: NDArray[Any] = tokens, mask: NDArray[Any] = mask) -> Tensor:
            return torch.from_numpy(np.where(mask, values[tokens], fill).astype(np.int64))

        asked = wanted[tokens] & mask
        yield Batch(
            rows=chosen,
            input_ids=padded(rows.input_ids, pad_id),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            token_type_ids=None if rows.token_type_ids is None else padded(rows.token_type_ids, 0),
            wanted=torch.from_numpy(asked),
            positions=tokens[asked],
        )


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """A batch in two, at the same padded length."""
    middle = len(batch.rows) // 2
    kept = int(batch.wanted[:middle].sum())

    def part(rows: slice, positions: slice) -> Batch:
        return Batch(
            rows=batch.rows[rows],
            input_ids=batch.input_ids[rows],
            attention_mask=batch.attention_mask[rows],
            token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[rows],
            wanted=batch.wanted[rows],
            positions=batch.positions[positions],
        )

    return part(slice(None, middle), slice(None, kept)), part(slice(middle, None), slice(kept, None))


def _hidden(teacher: Teacher, batch: Batch) -> Iterator[Tensor]:
    """Hidden states of a batch; a batch the device has no room for is halved, again and again."""
    try:
        yield teacher.encode(batch)
        return
    except torch.OutOfMemoryError:
        if len(batch.rows) == 1:
            raise TeacherError(
                f"a single row of {batch.input_ids.shape[1]} tokens does not fit on {teacher.device}; lower --max-length"
            ) from None
    log.warning("out of memory at %d rows of %d tokens: halving the batch", *batch.input_ids.shape)
    for half in _halves(batch):
        yield from _hidden(teacher, half)


def chunks(
    teacher: Teacher, source: Iterator[Batch], *, chunk_tokens: int, done: Callable[[Batch], None] = lambda batch: None
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Logits in chunks of chunk_tokens: ([N, V] of the leading n wanted tokens and filler, their n positions among all tokens).

    Chunks run across batches, so that only the last one has filler and [B, L, V] never exists. `done` is told of each batch.
    """
    waiting: list[Tensor] = []
    positions: list[NDArray[np.int64]] = []
    count = 0

    def flush(whole: bool) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        nonlocal waiting, positions, count
        hidden, where = torch.cat(waiting), np.concatenate(positions)
        stop = 0
        for start in range(0, count, chunk_tokens):
            if start + chunk_tokens > count and not whole:
                break
            stop = min(start + chunk_tokens, count)
            part = hidden[start:stop]
            if stop - start < chunk_tokens:
                part = torch.cat([part, part.new_zeros(chunk_tokens - (stop - start), part.shape[1])])
            yield teacher.project(part), where[start:stop]
        waiting, positions, count = [hidden[stop:]], [where[stop:]], count - stop

    for batch in source:
        for hidden in _hidden(teacher, batch):
            waiting.append(hidden)
        positions.append(batch.positions)
        count += len(batch.positions)
        if count >= chunk_tokens:
            yield from flush(whole=False)
        done(batch)
    if count:
        yield from flush(whole=True)
