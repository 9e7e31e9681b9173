"""Smoothed input embeddings: e = s @ E without ever building s.

Follows "Distilling Knowledge from Pre-trained Language Models via Text Smoothing" (arXiv 2005.03848): E are the student's own
word embeddings, and learn. Position and segment embeddings are added by the student, as to plain input.

Two ways in: `SoftEmbedding` for a loop of one's own, and `smooth_inputs`, after which a model of transformers takes soft ids itself,
so that any trainer that calls `model(**batch)` trains on them.
Legend: B rows, L length, M entries of the bag, V rows of the table, at least as many as the vocabulary has tokens, H hidden.
"""

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.dataset.collate import SoftBag


def soft_embedding(bag: SoftBag, table_VH: torch.Tensor, padding_idx: int | None = None, *, vocab_size: int | None = None) -> torch.Tensor:
    """The embeddings [B, L, H] of the mixed distributions, in the table's dtype.

    vocab_size: rows of the table that stand for tokens; later ones only pad it and are no part of the mean embedding. None: all rows.

    The gradient to the table is that of the dense product s @ E, with one exception: row `padding_idx`, if there is one, is
    looked up but gets none, as in `torch.nn.Embedding`.
    """
    weights = bag.weights.to(table_VH.dtype)
    pad_weight = None
    if padding_idx is not None:
        is_pad = bag.ids == padding_idx
        pad_weight = _per_position(torch.where(is_pad, weights, 0), bag.offsets)
        weights = torch.where(is_pad, 0, weights)
    if bag.mean_weight is None:
        flat = _summed(table_VH, bag.ids, weights, bag.offsets)
    else:
        mean_weight = bag.mean_weight.to(table_VH.dtype)
        rows = vocab_size or len(table_VH)
        flat = _SummedWithMean.apply(table_VH, bag.ids, weights, bag.offsets, mean_weight, padding_idx, rows)  # type: ignore[no-untyped-call]
    if pad_weight is not None:
        assert padding_idx is not None
        flat = flat + pad_weight[:, None] * table_VH.detach()[padding_idx]
    return flat.view(*bag.shape, table_VH.shape[1])


def _per_position(values_M: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sums of the entries of each position: [B * L]."""
    return torch.segment_reduce(values_M, "sum", offsets=offsets.long(), initial=0)


def _summed(table_VH: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(ids, table_VH, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


class _SummedWithMean(torch.autograd.Function):
    """The bags' sums plus mean_weight times the mean row. As two terms they would have a gradient of the table's size each."""

    @staticmethod
    def forward(
        ctx: Any,
        table_VH: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        offsets: torch.Tensor,
        mean_weight: torch.Tensor,
        padding_idx: int | None,
        vocab_size: int,
    ) -> torch.Tensor:
        ctx.padding_idx, ctx.vocab_size = padding_idx, vocab_size
        ctx.table_VH = table_VH.detach().requires_grad_(table_VH.requires_grad)
        with torch.enable_grad():
            ctx.summed = _summed(ctx.table_VH, ids, weights, offsets)
        ctx.save_for_backward(mean_weight)
        summed: torch.Tensor = ctx.summed.detach()
        return summed + mean_weight[:, None] * table_VH.detach()[:vocab_size].mean(0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (mean_weight,) = ctx.saved_tensors
        (grad_VH,) = torch.autograd.grad(ctx.summed, ctx.table_VH, grad)
        grad_VH[: ctx.vocab_size] += mean_weight @ grad / ctx.vocab_size
        if ctx.padding_idx is not None:
            grad_VH[ctx.padding_idx] = 0  # its weights in the bags are 0
        return grad_VH, None, None, None, None, None, None


class SoftEmbedding:
    """Smoothed input for a student: looks soft ids up in the student's own word embeddings.

    embedding: what `student.get_input_embeddings()` returns. vocab_size: width of the teacher's logits, every soft id is below it.
    TeacherError if the embedding does more than look rows up, or has too few rows.
    """

    def __init__(self, embedding: torch.nn.Module, *, vocab_size: int) -> None:
        if type(embedding) is not torch.nn.Embedding or embedding.max_norm is not None or embedding.scale_grad_by_freq:
            raise TeacherError(
                f"the student's word embeddings are {type(embedding).__name__}, smoothed input needs a plain torch.nn.Embedding; "
                "choose another student, or --inputs plain"
            )
        if embedding.num_embeddings < vocab_size:
            raise TeacherError(
                f"the student embeds {embedding.num_embeddings:,} ids, the soft ids go up to {vocab_size:,}; "
                "choose a student with the teacher's vocabulary"
            )
        self.embedding, self.vocab_size = embedding, vocab_size

    def __call__(self, bag: SoftBag) -> torch.Tensor:
        """The `inputs_embeds` [B, L, H] for the student."""
        return soft_embedding(bag, self.embedding.weight, self.embedding.padding_idx, vocab_size=self.vocab_size)


def smooth_inputs(student: Any, *, vocab_size: int) -> RemovableHandle:
    """Let a model of transformers take the soft_* tensors of `Batch.to_dict` next to input_ids: while it trains, they are its input.

    In eval mode, and of a batch without them, it reads input_ids as ever. vocab_size: of the teacher, every soft id is below it.
    Returns the hook's handle: `remove()` makes it the plain model again. TeacherError if its embeddings cannot be smoothed.
    """
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=vocab_size)

    def smoothed(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids, weights, offsets, mean = (kwargs.pop(f"soft_{part}", None) for part in ("ids", "weights", "offsets", "mean"))
        if module.training and ids is not None:
            shape = tuple(kwargs.pop("input_ids").shape)
            kwargs["inputs_embeds"] = soft(SoftBag(ids=ids, weights=weights, offsets=offsets, mean_weight=mean, shape=shape))
        return args, kwargs

    return student.register_forward_pre_hook(smoothed, with_kwargs=True)  # type: ignore[no-any-return]
