"""Smoothed input embeddings: e = s @ E without ever building s.

Follows "Distilling Knowledge from Pre-trained Language Models via Text Smoothing" (arXiv 2005.03848): E are the student's own
word embeddings, and learn. Position and segment embeddings are added by the student, as to plain input.
Legend: B rows, L length, M entries of the bag, V rows of the table, H hidden.
"""

import torch
from torch.nn import functional as F

from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.collate import SoftBag


def soft_embedding(bag: SoftBag, table_VH: torch.Tensor, padding_idx: int | None = None) -> torch.Tensor:
    """The embeddings [B, L, H] of the mixed distributions, in the table's dtype.

    The gradient to the table is that of the dense product s @ E, with one exception: row `padding_idx`, if there is one, is
    looked up but gets none, as in `torch.nn.Embedding`.
    """
    weights = bag.weights.to(table_VH.dtype)
    pad_weight = None
    if padding_idx is not None:
        is_pad = bag.ids == padding_idx
        pad_weight = _per_position(torch.where(is_pad, weights, 0), bag.offsets)
        weights = torch.where(is_pad, 0, weights)
    flat = F.embedding_bag(bag.ids, table_VH, bag.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
    if pad_weight is not None:
        assert padding_idx is not None
        flat = flat + pad_weight[:, None] * table_VH[padding_idx].detach()
    if bag.mean_weight is not None:
        flat = flat + bag.mean_weight.to(table_VH.dtype)[:, None] * _mean_row(table_VH, padding_idx)
    return flat.view(*bag.shape, table_VH.shape[1])


def _per_position(values_M: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sums of the entries of each position: [B * L]."""
    return torch.segment_reduce(values_M, "sum", offsets=offsets.long(), initial=0)


def _mean_row(table_VH: torch.Tensor, padding_idx: int | None) -> torch.Tensor:
    total = table_VH.sum(0)
    if padding_idx is not None:
        row = table_VH[padding_idx]
        total = total - row + row.detach()
    return total / table_VH.shape[0]


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
        self.embedding = embedding

    def __call__(self, bag: SoftBag) -> torch.Tensor:
        """The `inputs_embeds` [B, L, H] for the student."""
        return soft_embedding(bag, self.embedding.weight, self.embedding.padding_idx)
