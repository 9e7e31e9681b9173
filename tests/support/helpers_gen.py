"""What the tests of generation share: a tiny random teacher, tiny corpora, and command lines in processes of their own."""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
_WORDS = (
    "a the cat dog bird sat ran saw on under big small red blue house tree river good bad very not and but who what where is was "
    "happy sad film book plot actor long short slow fast never always i you we they it end begin one two three"
)
WORDS = _WORDS.split()
PIECES = [f"##{piece}" for piece in (*"abcdefghijklmnopqrstuvwxyz", "ing", "ed", "ly")]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?!", *"bcdefghjklmnopqrstuvwxyz", *WORDS, *PIECES]
POSITIONS = 24


def make_tokenizer() -> Any:
    """A WordPiece tokenizer over VOCAB with BERT's template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(VOCAB)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=POSITIONS,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )


def make_model(**changes: Any) -> Any:
    """A random BERT masked LM whose logits are far from flat."""
    from transformers import BertConfig, BertForMaskedLM

    settings = {
        "vocab_size": len(VOCAB),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.4,
    }
    torch.manual_seed(7)
    model = BertForMaskedLM(BertConfig(**{**settings, **changes}))
    with torch.no_grad():
        model.cls.predictions.bias.normal_(0, 1.0)
    return model.eval()


def sentence(rng: random.Random, longest: int = 12) -> str:
    """Words of the vocabulary and others, some pieces, some unknown characters, an end mark."""
    rare = ["catly", "Sobbing", "zebra", "日本", "naïve"]
    words = [rng.choice(WORDS if rng.random() < 0.8 else rare) for _ in range(rng.randint(1, longest))]
    return " ".join(words) + rng.choice(["", ".", "!", " ?"])


def rows(count: int, seed: int = 0, *, pair: bool = False, longest: int = 12) -> list[dict[str, Any]]:
    """Random rows: text (or question, sentence), an int label (None now and then), and columns to keep."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        text = {"question": sentence(rng, 6), "sentence": sentence(rng, longest)} if pair else {"text": sentence(rng, longest)}
        label = None if rng.random() < 0.1 else rng.randrange(2)
        kept = {"idx": number, "score": rng.random(), "note": rng.choice(["né", None, "x"]), "flag": rng.random() < 0.5}
        found.append({**text, "label": label, **kept})
    return found


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def write_parquet(path: Path, lines: list[dict[str, Any]], *, group: int, classes: tuple[str, ...] | None = None) -> Path:
    """A Parquet file; classes: names of the integer column `label`, in the metadata that `datasets` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(lines)
    if classes:
        features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


@dataclass(frozen=True)
class Ran:
    """A command line that ran."""

    code: int
    out: str
    err: str


ZYGOTE = """
import json, os, signal, sys
import torch, transformers, datasets, pyarrow.parquet, sklearn.metrics
import transformers.models.bert.modeling_bert
import textsmooth.pipeline.generation.run, textsmooth.pipeline.units.worker
from textsmooth.pipeline.cli import app as cli
from textsmooth.pipeline.cli import gen as cli_gen
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit SIGINT ignored
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    if "args" in ask:
        pid = os.fork()
        if pid == 0:
            for number, name in enumerate((os.devnull, ask["out"], ask["err"])):
                file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(file, number)
                os.close(file)
            exec(ask["patch"])
            code = cli.run(cli_gen.gen, "textsmooth-gen", ask["args"])
            sys.stdout.flush()
            os._exit(code)
        print(json.dumps(pid), flush=True)
    else:
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(ask["wait"], 0)[1])), flush=True)
"""


class Process:
    """A `textsmooth-gen` in a process of its own. patch: code that is run there before."""

    def __init__(self, ask: Callable[[Any], Any], args: list[str], folder: Path, patch: str = "") -> None:
        self._ask, self._out, self._err = ask, folder / "stdout", folder / "stderr"
        for file in (self._out, self._err):
            file.touch()
        self.pid: int = ask({"args": args, "out": str(self._out), "err": str(self._err), "patch": patch})

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Ran:
        """Negative code: the signal that ended it."""
        return Ran(self._ask({"wait": self.pid}), self._out.read_text(), self._err.read_text())


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; AssertionError if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shards_of(folder: Path) -> dict[str, bytes]:
    """The shard files of a dataset."""
    return {name: data for name, data in files_of(folder).items() if name.endswith(".arrow")}


def tree(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def wrong(gen: Callable[..., Ran], desk: Path, code: int, *args: object) -> str:
    """Run a command that must fail; its one line."""
    before = files_of(desk), tree(desk)
    ran = gen(*args)
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert ran.err.endswith("\n") and len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("textsmooth-gen: ")
    assert "Traceback" not in ran.err
    assert (files_of(desk), tree(desk)) == before
    return ran.err
