"""A student's logits of a batch, whatever its family and its head.

Legend: B rows, L length, C classes, M masked places, H hidden, V vocabulary.

The vocabulary projection of masked-LM training runs over the masked places alone: a hook on the student's encoder hands over the
hidden states of those, so that the student's own head sees nothing else and [B, L, V] never exists. Gradients flow as ever.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from textsmooth.stages.dataset.collate import Batch
from textsmooth.stages.models.load import taken_inputs
from textsmooth.stages.tokens.padding import probe
from textsmooth.stages.training.soft_embedding import SoftEmbedding

# Whether a student's head can be run on chosen hidden states; found out once for each student.
_head_alone: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Matrix products in `dtype` (float32: as they are); weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def forward(student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
    """The student's logits of the plain ids, or, with `soft`, of the batch's soft ids.

    [B, C] of a classifier, [B, L, 2] (start, end) of a span model, [B, L, V] of a masked LM.
    """
    taken = taken_inputs(student)
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
    """A masked LM's logits [M, V] at the batch's masked places: by its head on these alone, where its family allows."""
    assert batch.masked is not None
    places = batch.masked.places
    if student not in _head_alone:
        _head_alone[student] = _runs_alone(student)
    if not _head_alone[student]:
        return forward(student, batch, None).flatten(0, 1)[places]
    with _handing_over(student, places):
        return forward(student, batch, None)[0]


def _logits(output: Any) -> Tensor:
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: Tensor = output.logits
    return logits


@contextmanager
def _handing_over(model: Any, places: Tensor) -> Iterator[None]:
    """While it lasts, the encoder gives its head the hidden states of some of the B * L places only: [1, M, H]."""

    def gathered(module: nn.Module, given: Any, output: Any) -> Any:
        hidden = output[0].flatten(0, 1)[places][None]
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output[next(iter(output))] = hidden
        return output

    hook = getattr(model, model.base_model_prefix).register_forward_hook(gathered)
    try:
        yield
    finally:
        hook.remove()


def _runs_alone(model: Any) -> bool:
    """Whether the head gives a place the same logits when it sees that place's hidden state and those of others, in another order."""
    if getattr(model, model.base_model_prefix, model) is model:
        return False
    rows = probe(int(model.config.vocab_size), int(model.config.pad_token_id or 0))
    device = next(model.parameters()).device
    inputs = rows.inputs(taken_inputs(model), device)
    places = rows.wanted.flatten().nonzero()[:, 0].to(device).flip(0)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            whole = model(**inputs).logits.flatten(0, 1)[places]
            with _handing_over(model, places):
                alone = model(**inputs).logits[0]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return False
    finally:
        model.train(training)
    return whole.shape == alone.shape and torch.allclose(whole, alone, rtol=0.0, atol=1e-5 * float(whole.abs().max()))
