"""Run the teacher: token ids in, logits of the wanted tokens out, in chunks of one fixed size.

Legend: B rows of a batch, L padded length, N tokens of a chunk, H hidden, V vocabulary.

The vocabulary projection runs only on tokens that are kept, so that [B, L, V] never exists. It is the model's own head, for any family: the
model is called a second time, with its encoder replaced by one that returns the hidden states of those tokens.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textsmooth.schemas.errors import TeacherError, first_line
from textsmooth.stages.models.load import PADDING_NOISE, accepted_inputs, check_masked_lm, load_checked
from textsmooth.stages.tokens.padding import TOO_LARGE_ADVICE, PaddedRows, batches, probe, shortest_alone, split
from textsmooth.stages.tokens.tokenize import TokenRows

log = logging.getLogger(__name__)

TYPICAL_CHUNK = 256  # tokens per projection for which packed weights are laid out


class _PackedLinear(nn.Module):
    """A linear layer with weights in the layout of oneDNN's matrix kernels."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight, TYPICAL_CHUNK)
        self.bias = linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


class _Output(tuple[Tensor]):
    """An encoder's output for the head: hidden states, and None for every other attribute."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _FixedEncoder(nn.Module):
    """Replaces the encoder: returns fixed hidden states; all other attributes are the encoder's."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.__dict__["encoder"] = encoder  # not a submodule: only the head runs
        self.hidden: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["encoder"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.hidden is not None
        return _Output((self.hidden,))


class Teacher:
    """A masked language model in eval mode.

    dtype: of weights and activations. vocab_size: V, ids of the tokenizer; logits of further ids are dropped. pad_id: id for padding.
    Raises TeacherError if the folder has no masked LM with a trained head, or one with fewer logits than the tokenizer has ids.

    Attributes: vocab_size: V. apart: encoder and head can run one after the other; if not, `encode` runs the whole model.
    pads: rows may be padded; if not, only rows of equal length share a batch.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", vocab_size: int | None = None, pad_id: int = 0
    ) -> None:
        from transformers import AutoModelForMaskedLM

        check_masked_lm(folder)
        self.device, self.pad_id = torch.device(device), pad_id
        self.model = load_checked(AutoModelForMaskedLM, folder, dtype=dtype).eval().requires_grad_(False).to(self.device)
        self.name = type(self.model).__name__
        self._accepted = accepted_inputs(self.model)
        encoder = getattr(self.model, self.model.base_model_prefix, self.model)
        self.encoder: nn.Module = encoder
        self.apart = encoder is not self.model
        self._fixed = _FixedEncoder(self.encoder)
        self._head = copy.copy(self.model)
        self._head._modules = {**self.model._modules, self.model.base_model_prefix: self._fixed}
        self.vocab_size, self.pads = self._probe(folder, dtype, vocab_size)
        if self.apart and self.device.type == "cpu":
            self._pack_projection()

    def _inputs(self, batch: PaddedRows) -> dict[str, Tensor]:
        return batch.inputs(self._accepted, self.device)

    @torch.inference_mode()
    def _probe(self, folder: Path, dtype: torch.dtype, vocab_size: int | None) -> tuple[int, bool]:
        """(V, whether rows may be padded), by running two short rows: model families differ in all of this."""
        rows = probe(int(self.model.config.vocab_size), self.pad_id)
        try:
            whole, repeated = (self.model(**self._inputs(rows)).logits.float() for _ in range(2))
            alone = self.model(**self._inputs(shortest_alone(rows))).logits.float()
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise TeacherError(f"cannot run the {self.name}: {first_line(error)}") from error
        if whole.shape[:2] != rows.input_ids.shape:
            raise TeacherError(
                f"{self.name} cannot be a teacher: it gives logits {list(whole.shape)} for tokens {list(rows.input_ids.shape)}"
            )
        if whole.isnan().any():
            kind = str(dtype).removeprefix("torch.")
            raise TeacherError(f"the {self.name} in {folder} gives NaN in {kind}; try --dtype float32, or check its weights")
        width = whole.shape[-1]
        if vocab_size is not None and vocab_size > width:
            raise TeacherError(
                f"the tokenizer has {vocab_size} ids, the logits of {self.name} are {width} wide: they do not belong together"
            )
        largest = float(torch.nan_to_num(whole, posinf=0.0, neginf=0.0).abs().max())

        def same(a: Tensor, b: Tensor, share: float) -> bool:
            return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=share * largest, equal_nan=True)

        self.vocab_size = width
        wanted = rows.wanted.to(self.device)
        if self.apart:
            try:
                flipped = self.encode(rows).flip(0)  # in another order, to detect a head that looks at neighbors
                self.apart = same(self.project(flipped).flip(0).float(), whole[wanted], 8 * torch.finfo(dtype).eps)
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
                self.apart = False
        if not self.apart:
            log.warning("the head of %s needs more than hidden states: every token is projected, which is slower", self.name)
        if not same(repeated, whole, 0.0):
            log.warning("%s gives different logits each time: the same command will not give the same bytes", self.name)
        lengths = rows.attention_mask.sum(1)
        pads = same(whole[int(lengths.argmin()), : alone.shape[1]], alone[0], PADDING_NOISE[dtype])
        if not pads:
            log.warning("the logits of %s change with padding: only rows of equal length share a batch", self.name)
        return min(width, vocab_size or width), pads

    @torch.inference_mode()
    def _pack_projection(self) -> None:
        """Lay out the projection's weights for the CPU's matrix kernel once, if this torch can and the results agree up to rounding."""
        linear = self._head.get_output_embeddings()
        if type(linear) is not nn.Linear:
            return
        owners = [(parent, name) for parent in self._head.modules() for name, child in parent.named_children() if child is linear]
        hidden = self.encode(probe(int(self.model.config.vocab_size), self.pad_id))
        expected = self.project(hidden).float()
        try:
            packed = _PackedLinear(linear)
            for parent, name in owners:
                setattr(parent, name, packed)
            packed_logits = self.project(hidden).float()
            agrees = torch.allclose(
                packed_logits, expected, rtol=0, atol=8 * torch.finfo(linear.weight.dtype).eps * float(expected.abs().max())
            )
        except (RuntimeError, AttributeError):  # this torch has no such operator, or the head reads the weights itself
            agrees = False
        if not agrees:
            for parent, name in owners:
                setattr(parent, name, linear)

    def batches(
        self, rows: TokenRows, wanted: NDArray[np.bool_], *, max_batch_tokens: int, only: NDArray[np.int64] | None = None
    ) -> Iterator[PaddedRows]:
        """`padding.batches` with this model's padding."""
        return batches(rows, wanted, max_batch_tokens=max_batch_tokens, pad_id=self.pad_id, equal_lengths=not self.pads, only=only)

    @torch.inference_mode()
    def encode(self, batch: PaddedRows) -> Tensor:
        """Hidden states [N, H] of the wanted tokens, in the order of `batch.positions`; their logits [N, V] if not `apart`."""
        outputs: Tensor = self.encoder(**self._inputs(batch))[0] if self.apart else self.model(**self._inputs(batch)).logits
        return outputs[batch.wanted.to(self.device)]

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        """Logits [N, V], by the model's own head, of what `encode` returned."""
        if not self.apart:
            return hidden[:, : self.vocab_size]
        self._fixed.hidden = hidden[None]
        try:
            return self._head(input_ids=None, return_dict=True).logits[0, :, : self.vocab_size]  # type: ignore[no-any-return]
        finally:
            self._fixed.hidden = None


def _encoded(teacher: Teacher, batch: PaddedRows) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """(`encode` of a batch, positions). A batch that does not fit into memory is halved, repeatedly."""
    try:
        encoded = teacher.encode(batch)
    except torch.OutOfMemoryError as error:
        if len(batch.rows) == 1:
            raise TeacherError(
                f"a single row of {batch.input_ids.shape[1]} tokens does not fit on {teacher.device}; {TOO_LARGE_ADVICE}"
            ) from error
    except (RuntimeError, IndexError) as error:
        raise TeacherError(f"{teacher.name} failed at rows of {batch.input_ids.shape[1]} tokens: {first_line(error)}") from error
    else:
        yield encoded, batch.positions
        return
    log.warning("out of memory at %d rows of %d tokens: halving the batch", *batch.input_ids.shape)
    for half in split(batch, (len(batch.rows) + 1) // 2):
        yield from _encoded(teacher, half)


def _projected(
    teacher: Teacher, hidden: Tensor, where: NDArray[np.int64], use: Callable[[Tensor, NDArray[np.int64]], Any]
) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """(`use` of the logits, positions) of a chunk. A chunk that does not fit into memory is halved, repeatedly."""
    try:
        result = use(teacher.project(hidden), where)
    except torch.OutOfMemoryError as error:
        if len(hidden) == 1:
            what = f"the logits of a single token do not fit on {teacher.device}"
            raise TeacherError(f"{what}; lower --max-batch-tokens, or use a device with more memory") from error
    else:
        yield result, where
        return
    log.warning("out of memory at the logits of %d tokens: halving the chunk", len(hidden))
    middle = (len(hidden) + 1) // 2
    for half in (slice(middle), slice(middle, None)):
        if len(where[half]):
            yield from _projected(teacher, hidden[half], where[half], use)


def chunks(
    teacher: Teacher,
    source: Iterable[PaddedRows],
    *,
    chunk_tokens: int,
    done: Callable[[PaddedRows], None] = lambda batch: None,
    use: Callable[[Tensor, NDArray[np.int64]], Any] = lambda logits, where: logits,
) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """Logits in chunks of chunk_tokens: ([N, V] of n wanted tokens and then padding, the n positions among all tokens).

    Chunks span batches, so that only the last one is padded and [B, L, V] never exists. done: called after each batch.
    use: gets logits and positions; its result is returned instead of the logits. If it or the projection runs out of memory, it is called
    again with half the chunk.
    """
    waiting: list[Tensor] = []
    positions: list[NDArray[np.int64]] = []
    count = 0

    def flush(whole: bool) -> Iterator[tuple[Any, NDArray[np.int64]]]:
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
            yield from _projected(teacher, part, where[start:stop], use)
        waiting, positions, count = [hidden[stop:]], [where[stop:]], count - stop

    for batch in source:
        # where `encode` returns logits they are large: no more rows at once than fill a chunk
        rows = len(batch.rows) if teacher.apart else max(chunk_tokens // batch.input_ids.shape[1], 1)
        for part in split(batch, rows):
            for hidden, where in _encoded(teacher, part):
                waiting.append(hidden)
                positions.append(where)
                count += len(where)
            if count >= chunk_tokens:
                yield from flush(whole=False)
        done(batch)
    if count:
        yield from flush(whole=True)
