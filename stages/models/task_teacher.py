"""Run a task teacher, a model fine-tuned on the task: its logits are targets for distillation.

Legend: R rows, W windows, N tokens, C logits of a row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.schemas.errors import TeacherError, UsageError, first_line
from textsmooth.schemas.plan import TaskTeacherIdentity
from textsmooth.stages.models.load import PADDING_NOISE, accepted_inputs, load_checked, teacher_digest
from textsmooth.stages.tokens.load import load_tokenizer
from textsmooth.stages.tokens.padding import TOO_LARGE_ADVICE, PaddedRows, batches, probe, shortest_alone, split
from textsmooth.stages.tokens.tokenize import TokenRows, tokenizer_digest

GENERIC = "LABEL_"  # prefix of transformers' names for unnamed classes


def class_order(
    model_names: tuple[str, ...], corpus_names: tuple[str, ...] | None, where: str, *, ordered: bool = True
) -> tuple[int, ...] | None:
    """For each class of the corpus, the index of the model's logit; None if the order is the same.

    Names are compared without case, `-`, `_` and spaces. If model (LABEL_0 …) or corpus has no names, the order is taken to be the same,
    except where the corpus's classes are strings (`ordered` is False) and have no order. UsageError if the number of classes or their names
    differ.
    """
    if corpus_names is None:
        return None
    if len(model_names) != len(corpus_names):
        raise UsageError(
            f"the task teacher in {where} has {len(model_names)} classes ({', '.join(model_names)}), "
            f"the corpus has {len(corpus_names)} ({', '.join(corpus_names)}); choose one for this task"
        )
    if ordered and all(name.startswith(GENERIC) for name in model_names):
        return None
    of_model, of_corpus = (
        [name.lower().translate(str.maketrans("", "", "-_ ")) for name in names] for names in (model_names, corpus_names)
    )
    if sorted(of_model) != sorted(of_corpus) or len(set(of_model)) != len(of_model):
        raise UsageError(
            f"the task teacher in {where} has classes {', '.join(model_names)}, the corpus {', '.join(corpus_names)}: their order is "
            "unknown; use the same names in the model's config.json (id2label)"
        )
    order = tuple(of_model.index(name) for name in of_corpus)
    return None if order == tuple(range(len(order))) else order


def planned(identity: TaskTeacherIdentity, folder: Path, *, dtype: torch.dtype, device: str) -> "TaskTeacher":
    """Load the task teacher of a plan. TeacherError if the folder now holds another model."""
    loaded = TaskTeacher(folder, kind=identity.kind, width=identity.width, order=identity.order, dtype=dtype, device=device)
    if loaded.identity != (identity.digest, identity.tokenizer_digest):
        raise TeacherError(f"the task teacher in {folder} is not the planned one: it has changed; choose another --out")
    return loaded


class TaskTeacher:
    """A sequence classifier, a regressor, or a span model (question answering), in eval mode.

    kind: `class`, `value` or `span`. width: C, logits per row, or per token for `span`. order: from class_order. Raises TeacherError if the
    folder holds no such model with a trained head.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: str,
        width: int,
        order: tuple[int, ...] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

        auto: Any = AutoModelForQuestionAnswering if kind == "span" else AutoModelForSequenceClassification
        self.kind, self.width, self.order, self.device = kind, width, order, torch.device(device)
        self.model = load_checked(auto, folder, dtype=dtype).eval().requires_grad_(False).to(self.device)
        self.tokenizer = load_tokenizer(folder)
        self.pad_id = int(self.tokenizer.pad_token_id or 0)
        self._accepted = accepted_inputs(self.model)
        self.pads = self._pads(dtype)
        self.ids = max(self.tokenizer.get_vocab().values()) + 1
        self.identity = (teacher_digest(folder), tokenizer_digest(self.tokenizer))

    @torch.inference_mode()
    def _forward(self, batch: PaddedRows) -> Tensor:
        """[B, C], or [B, L, 2] of a span model; float32."""
        out = self.model(**batch.inputs(self._accepted, self.device))
        logits: Tensor = torch.stack([out.start_logits, out.end_logits], dim=-1) if self.kind == "span" else out.logits
        return logits.float()

    def _pads(self, dtype: torch.dtype) -> bool:
        """Whether rows may be padded: the logits of some families change with padding."""
        rows = probe(int(self.model.config.vocab_size), self.pad_id)
        alone = shortest_alone(rows)
        try:
            padded, short = self._forward(rows), self._forward(alone)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise TeacherError(f"cannot run the {type(self.model).__name__}: {first_line(error)}") from error
        row = padded[int(rows.attention_mask.sum(1).argmin())]
        row = row[: short.shape[1]] if self.kind == "span" else row
        return torch.allclose(
            row, short[0], rtol=0.0, atol=PADDING_NOISE[dtype] * float(torch.nan_to_num(padded).abs().max()), equal_nan=True
        )

    def _values(self, batch: PaddedRows) -> Iterator[tuple[PaddedRows, NDArray[np.float32]]]:
        """A batch and its logits. A batch that does not fit into memory is halved, repeatedly."""
        try:
            values = self._forward(batch).cpu().numpy()
        except torch.OutOfMemoryError as error:
            if len(batch.rows) == 1:
                tokens = batch.input_ids.shape[1]
                raise TeacherError(
                    f"a single row of {tokens} tokens does not fit on {self.device}, in the task teacher; {TOO_LARGE_ADVICE}"
                ) from error
        else:
            yield batch, values
            return
        for half in split(batch, (len(batch.rows) + 1) // 2):
            yield from self._values(half)

    def logits(self, tokens: TokenRows, *, max_batch_tokens: int) -> NDArray[np.float32]:
        """[W, C] float32 logits, classes in the order of the corpus; of a span model [N, 2]: start and end of each token.

        Rows are run in batches of similar length. TeacherError if a logit is NaN.
        """
        span = self.kind == "span"
        no_tokens = np.zeros(len(tokens.input_ids), np.bool_)
        logits = np.zeros((len(tokens.input_ids) if span else len(tokens), self.width), np.float32)
        source = batches(tokens, no_tokens, max_batch_tokens=max_batch_tokens, pad_id=self.pad_id, equal_lengths=not self.pads)
        for batch, values in (part for whole in source for part in self._values(whole)):
            if values.shape[-1] != self.width:
                raise TeacherError(f"the task teacher gives {values.shape[-1]} logits, its config.json says {self.width}: a damaged folder")
            if span:
                for row, value in zip(batch.rows, values, strict=True):
                    low, high = tokens.row_offsets[row], tokens.row_offsets[row + 1]
                    logits[low:high] = value[: high - low]
            else:
                logits[batch.rows] = values
        if np.isnan(logits).any():
            raise TeacherError("the task teacher gave NaN; try --dtype float32, or check its weights")
        return logits if self.order is None else logits[:, list(self.order)]
