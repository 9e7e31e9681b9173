"""What the tests of looking at datasets share: a dataset whose words, labels and names would like to be something else."""

from dataclasses import replace
from pathlib import Path

import helpers_train
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.atomic import pretty_json

HOSTILE = [
    "<script>document.title='taken'</script>",
    "</script>",
    "<!--",
    "]]>",
    "<img/src=x/onerror=document.title='taken'>",
    "\"'`&amp;",
    "{{data}}",
    "\u2028line",
    "\x1b[31mred",
    "\u202eturned",
    "\x1b]0;title\x07",
    "日本語",
    "नमस्ते",
    "x" * 60,
    "a\nb\rc",
]


def make_hostile(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 40) -> Path:
    """A dataset with the words of HOSTILE, in its labels and in its corpus's name too."""
    plain = helpers_train.make_tokenizer()

    def hostile(words: int = helpers_train.VOCAB) -> PreTrainedTokenizerFast:
        vocab = plain.get_vocab()
        names = {i: name for name, i in vocab.items()} | dict(enumerate(HOSTILE, 15))
        backend = Tokenizer(models.WordLevel({name: i for i, name in names.items()}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, **{f"{k}_token": f"[{k.upper()}]" for k in ("pad", "unk", "cls", "sep", "mask")}
        )

    monkeypatch.setattr(helpers_train, "make_tokenizer", hostile)
    block = helpers_train.random_rows(5, rows, longest=20).block
    helpers_train.write_dataset(folder, {"train": [block]}, label_names=(HOSTILE[0], HOSTILE[8]))
    manifest = read_manifest(folder)
    named = replace(manifest, corpus={**manifest.corpus, "name": f"{HOSTILE[0]} {HOSTILE[8]} {HOSTILE[6]}", "license": HOSTILE[4]})
    (folder / MANIFEST).write_bytes(pretty_json(named.to_json()))
    return folder
