"""What the tests of training share: small synthetic smoothed datasets, a tokenizer, and tiny random models."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from helpers_gen import Process
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.manifest import MANIFEST, FileEntry, Manifest, ShardEntry
from textsmooth.schemas.plan import CorpusIdentity, TaskTeacherIdentity, TeacherIdentity
from textsmooth.schemas.shard import ShardMeta
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.codec import TokenBlock, encode
from textsmooth.stages.soft_ids.shard import shard_bytes, shard_schema
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.tokens.tokenize import special_ids, vocab_digest

VOCAB = 60
PAD, UNK, CLS, SEP, MASK = range(5)
TOPK = 8
TEMPERATURES = (0.5, 2.0)


def make_tokenizer(words: int = VOCAB) -> PreTrainedTokenizerFast:
    """A word tokenizer: [PAD] [UNK] [CLS] [SEP] [MASK] w5 w6 … w59."""
    vocab = {name: i for i, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, words))])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{k}_token": v for k, v in names.items()},
    )


def config(family: str, **changes: Any) -> Any:
    """The configuration of a tiny model: 3 layers, hidden 16."""
    from transformers import BertConfig, DistilBertConfig, RobertaConfig

    if family == "distilbert":
        sizes = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40}
        return DistilBertConfig(vocab_size=VOCAB, pad_token_id=PAD, **{**sizes, **changes})
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    kind = {"bert": BertConfig, "roberta": RobertaConfig}[family]
    if family == "roberta":
        sizes["type_vocab_size"] = 1  # as its checkpoints have
    return kind(**{"vocab_size": VOCAB, "pad_token_id": PAD, "max_position_embeddings": 40, "initializer_range": 0.2, **sizes, **changes})


def save_masked_lm(folder: Path, family: str = "bert", *, seed: int = 0, words: int = VOCAB, **changes: Any) -> Path:
    """A tiny random masked LM with its tokenizer in a folder."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config(family, **changes))
    model.save_pretrained(folder)
    make_tokenizer(words).save_pretrained(folder)
    return folder


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A block with the full distributions it was cut from."""

    block: TokenBlock
    logits: NDArray[np.float64]  # [N, V]
    plain: NDArray[np.bool_]  # [N]


def random_rows(seed: int, rows: int, *, first_row: int = 0, label_kind: str | None = "class", longest: int = 9) -> Dense:
    """Random rows [CLS] words [SEP] with soft ids of random distributions, at most TOPK entries of each, mass up to 0.98."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest - 1, rows) + 2
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = int(offsets[-1])
    ids = rng.integers(15, VOCAB, tokens)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = CLS, SEP
    ids[offsets[:-1] + 1] = rng.integers(5, 15, rows)  # the word that the label hangs on
    plain = ids < 5
    logits = rng.normal(0, 2.5, (tokens, VOCAB))
    logits[np.arange(tokens), ids] += 4.0
    logprobs = log_softmax(logits)
    order = np.argsort(-logprobs, kind="stable")[:, :TOPK]
    top = np.take_along_axis(logprobs, order, 1)
    reached = np.cumsum(np.exp(top), 1) - np.exp(top)
    keep = (reached < 0.98) & ~plain[:, None]
    tail = np.maximum(1 - (np.exp(top) * keep).sum(1), 1e-9)
    first_word = ids[offsets[:-1] + 1]
    label: NDArray[Any] | None = None
    if label_kind == "class":
        label = (first_word % 2).astype(np.int64)
    elif label_kind == "value":
        label = first_word % 2 + first_word / 100
    block = TokenBlock(
        row=np.arange(first_row, first_row + rows, dtype=np.int64),
        row_offsets=offsets,
        input_ids=ids.astype(np.uint16),
        token_type_ids=rng.integers(0, 2, tokens).astype(np.uint8),
        soft=SoftIds(
            offsets=np.concatenate([[0], np.cumsum(keep.sum(1))]),
            ids=order[keep].astype(np.uint16),
            logprobs=top[keep],
            log_tail=np.where(plain, -np.inf, np.log(tail)),
            original_logprob=np.where(plain, 0.0, logprobs[np.arange(tokens), ids]),
            log_partition=np.stack([np.where(plain, 0, np.log(np.exp(logprobs / t).sum(1))) for t in TEMPERATURES], 1).astype(np.float32),
        ),
        label=label,
    )
    return Dense(block=block, logits=logits, plain=plain)


def stats_of(block: TokenBlock) -> UnitStats:
    """What the manifest says of a shard, of its numbers as they are stored."""
    soft = block.soft
    stored = replace(soft, logprobs=soft.logprobs.astype(np.float16), original_logprob=soft.original_logprob.astype(np.float16))
    return UnitStats.of(stored, topk=TOPK, mass=0.98, temperatures=TEMPERATURES, rows=len(block))


def write_dataset(
    folder: Path,
    splits: dict[str, list[TokenBlock]],
    *,
    label_kind: str | None = "class",
    label_names: tuple[str, ...] | None = ("even", "odd"),
    words: int = VOCAB,
    context: str = "unmasked",
    task_teacher: bool = False,
    statistics: dict[str, Any] | None = None,
) -> Path:
    """A finished smoothed dataset: each block of each split is a shard. task_teacher: with logits of one that knows the labels."""
    tokenizer = make_tokenizer(words)
    tokenizer.save_pretrained(folder / "tokenizer")
    files = [p for p in sorted(folder.glob("tokenizer/*")) if p.is_file()]
    longest = max((int(np.diff(block.row_offsets).max(initial=0)) for blocks in splits.values() for block in blocks), default=0)
    generation = GenerationConfig(topk=TOPK, mass=0.98, temperatures=(1.0, *TEMPERATURES), max_length=max(40, longest), context=context)
    width = {"class": 2, "value": 1}[label_kind or "class"] if task_teacher else None
    shards = []
    for split, blocks in splits.items():
        for number, block in enumerate(blocks):
            meta = ShardMeta(
                codec="plain",
                topk=TOPK,
                mass=0.98,
                temperatures=TEMPERATURES,
                context=context,
                vocab_size=VOCAB,
                teacher="t",
                tokenizer="k",
                vocab="v",
                split=split,
                unit=f"{number}",
            )
            schema = shard_schema(meta, token_types=True, label_kind=label_kind, logits=width)
            data = shard_bytes(encode(block, schema, {} if width is None else {"teacher_logits": knowing(block, width)}))
            path = folder / split / f"{number:05d}.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(memoryview(data))
            shards.append(
                ShardEntry(
                    path=f"{split}/{path.name}",
                    split=split,
                    rows=len(block),
                    tokens=len(block.input_ids),
                    entries=len(block.soft.ids),
                    bytes=data.size,
                    sha256=file_sha256(path),
                )
            )
    corpus = CorpusIdentity(
        name="synthetic",
        files={split: [f"{split}.jsonl"] for split in splits},
        text_columns=("text",),
        label_column=label_kind and "label",
        label_kind=label_kind,
        label_names=label_names,
        keep_columns=(),
        limit=None,
    )
    teacher = TeacherIdentity(
        name="tiny",
        digest="1" * 64,
        tokenizer_digest="2" * 64,
        vocab_digest=vocab_digest(tokenizer),
        vocab_size=VOCAB,
        model_type="bert",
    )
    knows = TaskTeacherIdentity(
        name="knows", digest="3" * 64, tokenizer_digest="4" * 64, kind=label_kind or "class", width=width or 1, max_length=40
    )
    counted = sum((stats_of(block) for blocks in splits.values() for block in blocks), start=UnitStats())
    told = counted.summary()
    del told["unlabelled_rows"]  # not known
    manifest = Manifest(
        dataset=Manifest.dataset_digest("0" * 64, tuple(shards)),
        plan="0" * 64,
        corpus=corpus.to_json(),
        teacher=teacher.to_json(),
        config=generation.to_json(),
        token_types=True,
        special_ids=special_ids(tokenizer),
        shards=tuple(shards),
        files=tuple(FileEntry(path=str(p.relative_to(folder)), bytes=p.stat().st_size, sha256=file_sha256(p)) for p in files),
        statistics={**told, "bytes": 0, "bytes_per_token": 0.0, **(statistics or {})},
        task_teacher=asdict(knows) if task_teacher else None,
        versions={},
        created="2026-01-01T00:00:00Z",
    )
    (folder / MANIFEST).write_bytes(pretty_json(manifest.to_json()))
    return folder


def knowing(block: TokenBlock, width: int) -> pa.Array:
    """Logits of a task teacher that knows what a label hangs on."""
    first = block.input_ids[block.row_offsets[:-1] + 1].astype(np.float32)
    logits = np.stack([3 - 6 * (first % 2), 6 * (first % 2) - 3], 1) if width == 2 else (first % 2 + first / 100)[:, None]
    return pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32).ravel()), width)


def small_dataset(folder: Path, **changes: Any) -> Path:
    """Two training shards of unequal size (300 rows), one validation shard (60 rows)."""
    kind = changes.get("label_kind", "class")
    blocks = [random_rows(seed, rows, first_row=first, label_kind=kind).block for seed, rows, first in ((1, 270, 0), (2, 30, 270))]
    return write_dataset(folder, {"train": blocks, "validation": [random_rows(3, 60, label_kind=kind).block]}, **changes)


# In a process of the zygote (helpers_gen), whose command then is `textsmooth-train`: dies by SIGKILL at the CALL-th call of a function.
KILL = """
import importlib
def die_at(module, owner, name, call, signals=(9,)):
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    real, calls = getattr(place, name), []
    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            for number in signals:
                os.kill(os.getpid(), number)
        return real(*args, **kwargs)
    setattr(place, name, counted)
"""


def train_process(ask: Any, folder: Path, *args: object, patch: str = "", env: dict[str, str] | None = None) -> Process:
    """`textsmooth-train` in a process of its own; patch: code that is run there before, die_at() of KILL is known to it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = (
        f"os.environ.update({env or {}!r})\nfrom textsmooth.pipeline.cli import train as cli_train\nreal_run = cli.run\n"
        "cli.run = lambda command, name, args: real_run(cli_train.train, 'textsmooth-train', args)\n"
    )
    return Process(ask, [str(arg) for arg in args], folder, f"{command}{KILL}{patch}")


def events(log: Path, event: str = "update") -> list[dict[str, Any]]:
    """The lines of a log.jsonl of a kind."""
    return [found for line in log.read_text().splitlines() if (found := json.loads(line))["event"] == event]
