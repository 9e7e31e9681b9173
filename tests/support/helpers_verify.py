"""What the tests of verify share: datasets of every kind, and hands that damage and forge them."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers_gen import POSITIONS, VOCAB, make_tokenizer, rows, sentence, write_jsonl

from textsmooth.pipeline.verification.run import Verified
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.atomic import pretty_json

Kinds = dict[str, tuple[Path, list[str]]]  # folder of a dataset, and what tells verify where corpus and teachers lie
BAD_ROW = 7
KINDS: dict[str, tuple[object, ...]] = {
    "single": ("--temperatures", "0.5,1,2", "--mass", 0.9, "--keep-columns", "note", "--label-column", "label"),
    "pair": (),
    "masked": ("--context", "masked:3", "--temperatures", "1,3"),
    "windows": ("--long", "window", "--max-length", 9, "--stride", 2),
    "span": ("--stride", 6),
    "specials": ("--specials", "smoothed", "--max-length", 9),
    "quarantined": ("--skip-bad-rows",),
    "compact-single": ("--codec", "compact", "--temperatures", "0.5,1,2", "--mass", 0.9),
    "compact-masked": ("--codec", "compact:5e-4", "--context", "masked:3", "--temperatures", "1,3"),
    "compact-span": ("--codec", "compact", "--stride", 6),
}


def questions(count: int) -> list[dict[str, Any]]:
    """Rows as SQuAD has them; every fifth question has no answer."""
    rng = random.Random(0)
    found = []
    for number in range(count):
        words = " ".join(sentence(rng, 12) for _ in range(rng.randint(1, 4))).split(" ")
        first = rng.randrange(len(words))
        start = len(" ".join(words[:first])) + (first > 0)
        answers = {"text": [words[first]], "answer_start": [start]} if number % 5 else {"text": [], "answer_start": []}
        found.append({"id": f"q{number}", "title": "t", "context": " ".join(words), "question": sentence(rng, 3), "answers": answers})
    return found


def span_model(folder: Path) -> Path:
    """A tiny random model that gives start and end logits."""
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForQuestionAnswering(BertConfig(vocab_size=len(VOCAB), max_position_embeddings=POSITIONS, **sizes)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_kinds(room: Path, teacher: Path) -> Kinds:
    """Datasets of every kind."""
    from textsmooth.pipeline.cli.app import run
    from textsmooth.pipeline.cli.gen import gen

    lines = rows(30, 3, longest=20)
    (room / "lists").mkdir()
    single, pair, spans, bad = (room / "lists" / f"{name}.jsonl" for name in ("single", "pair", "squad", "bad"))
    write_jsonl(single, lines)
    write_jsonl(pair, rows(20, 4, pair=True))
    write_jsonl(bad, [{**line, "text": None} if number == BAD_ROW else line for number, line in enumerate(lines)])
    write_jsonl(spans, questions(16))
    second_teacher = span_model(room / "model")
    found = {}
    for name, options in KINDS.items():
        kind = name.rpartition("-")[2]
        corpus = {"pair": pair, "span": spans, "quarantined": bad}.get(kind, single)
        second = ["--task-teacher", second_teacher] if kind == "span" else []
        text = {"pair": [], "span": []}.get(kind, ["--text-column", "text"])
        where = [*map(str, ["--corpus", corpus, "--teacher", teacher, *second])]
        shared = ["--topk", 6, "--rows-per-shard", 7, "--dtype", "float32", "--threads", 1, "--progress", "none", "--out", room / name]
        assert run(gen, "textsmooth-gen", [*where, *map(str, [*text, *options, *shared])]) == 0, name
        found[name] = (room / name, where)
    return found


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def said(found: Verified) -> list[str]:
    return [str(finding) for finding in found.findings]


def remade(folder: Path, **changes: Any) -> Manifest:
    """The manifest written anew, with digests that fit: as somebody would who forges a dataset."""
    manifest = replace(read_manifest(folder), **changes)
    files = tuple(fresh(folder, entry) for entry in manifest.files)
    shards = tuple(fresh(folder, entry) for entry in manifest.shards)
    manifest = replace(manifest, files=files, shards=shards, dataset=Manifest.dataset_digest(manifest.plan, shards))
    (folder / "manifest.json").write_bytes(pretty_json(manifest.to_json()))
    return manifest


def fresh(folder: Path, entry: Any) -> Any:
    data = (folder / entry.path).read_bytes() if (folder / entry.path).exists() else b""
    return replace(entry, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
