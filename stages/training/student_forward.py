"""A student's logits of a batch, whatever its family and its head.

Legend: B rows, L length, C classes, M masked places, H hidden, V vocabulary.

In masked-LM training the vocabulary projection runs on the masked places only: a hook on the student's encoder passes just their hidden
states to the student's head, so that [B, L, V] never exists. Gradients are unchanged.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from textsmooth.stages.dataset.collate import Batch
from textsmooth.stages.models.load import accepted_inputs
from textsmooth.stages.tokens.padding import probe
from textsmooth.stages.training.soft_embedding import SoftEmbedding

# Whether a student's head gives the same logits on selected hidden states; tested once per student.
_pointwise_heads: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Autocast for matrix products in `dtype`, off for float32; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def forward(student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
    """The student's logits for the plain ids, or, with `soft`, for the batch's soft ids.

    [B, C] of a classifier, [B, L, 2] (start, end) of a span model, [B, L, V] of a masked LM.
    """
    taken = accepted_inputs(student)
    inputs: dict[str, Tensor] = {}
    if "attention_mask" in taken:
        inputs["attention_mask"] = batch.attention_mask
    if batch.token_type_ids is not None and "token_type_ids" in taken:
        inputs["token_type_ids"] = batch.token_type_ids
    if soft is None:
        inputs["input_ids"] = batch.input_ids
    else:
        assert batch.soft is not None
        inputs["inputs_embeds"] = soft(batch.soft)
    return _logits(student(**inputs))


def masked_logits(student: Any, batch: Batch) -> Tensor:
    """A masked LM's logits [M, V] at the batch's masked places; its head runs on these only, where its family allows that."""
    assert batch.masked is not None
    places = batch.masked.places
    if student not in _pointwise_heads:
        _pointwise_heads[student] = _head_is_pointwise(student)
    if not _pointwise_heads[student]:
        return forward(student, batch, None).flatten(0, 1)[places]
    with _only_places(student, places):
        return forward(student, batch, None)[0]


def _logits(output: Any) -> Tensor:
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: Tensor = output.logits
    return logits


@contextmanager
def _only_places(model: Any, places: Tensor) -> Iterator[None]:
    """Within this context the encoder returns the hidden states of the given places only, [1, M, H] instead of [B, L, H]."""

    def select(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output[0].flatten(0, 1)[places][None]
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output[next(iter(output))] = hidden
        return output

    hook = getattr(model, model.base_model_prefix).register_forward_hook(select)
    try:
        yield
    finally:
        hook.remove()


def _head_is_pointwise(model: Any) -> bool:
    """Whether the head gives a place the same logits from a selection of hidden states in another order."""
    if getattr(model, model.base_model_prefix, model) is model:
        return False
    rows = probe(int(model.config.vocab_size), int(model.config.pad_token_id or 0))
    device = next(model.parameters()).device
    inputs = rows.inputs(accepted_inputs(model), device)
    places = rows.wanted.flatten().nonzero()[:, 0].to(device).flip(0)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            expected = model(**inputs).logits.flatten(0, 1)[places]
            with _only_places(model, places):
                actual = model(**inputs).logits[0]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return False
    finally:
        model.train(training)
    return expected.shape == actual.shape and torch.allclose(expected, actual, rtol=0.0, atol=1e-5 * float(expected.abs().max()))
