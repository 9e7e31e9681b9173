"""Make the demo corpus, its vocabulary and the demo teacher again: `python -m textsmooth.pipeline.demo.build`.

Everything is seeded. The corpus and the vocabulary come out the same on every machine; the weights of the teacher
come out the same where the library versions, the processor and the number of threads are the same.
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from textsmooth.pipeline.demo import corpus_folder, teacher_folder
from textsmooth.pipeline.demo.grammar import SEED, corpus, reviews

__all__ = ["main"]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 64
IGNORED = -100


def write_corpus(folder: Path) -> None:
    """Write `train.jsonl` and `validation.jsonl` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in corpus().items():
        lines = (json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="ascii", newline="\n")


def train_tokenizer(texts: Sequence[str], vocabulary_size: int) -> Tokenizer:
    """Train an uncased WordPiece tokenizer whose vocabulary puts whole words before pieces of words.

    A trainer that merges letters spends much of a small vocabulary on the steps between them. So every word of the
    texts gets an entry, and the trained pieces fill what is left; letters make sure that any word can be spelt.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))

    symbols = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = [*SPECIALS, *symbols, *(f"##{symbol}" for symbol in symbols if symbol.isalnum())]
    vocabulary += [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizer, splitter
    pieces.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocabulary_size, show_progress=False))
    endings = [piece for piece in pieces.get_vocab() if piece.startswith("##")]
    share = {ending: sum(word.endswith(ending[2:]) for word in words) for ending in endings}
    vocabulary += sorted(endings, key=lambda ending: (-share[ending], ending))

    ids = {entry: index for index, entry in enumerate(list(dict.fromkeys(vocabulary))[:vocabulary_size])}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, with [CLS] and [SEP]."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def padded(rows: Sequence[list[int]]) -> torch.Tensor:
    """Return the rows as one [B, L] int64 tensor, filled up with [PAD], which has id 0."""
    length = max(map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def batches(rows: Sequence[list[int]], size: int, generator: torch.Generator) -> Iterable[torch.Tensor]:
    """Yield the rows once, in batches of similar length and in a random order."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    order.sort(key=lambda index: len(rows[index]))
    starts = torch.randperm(math.ceil(len(rows) / size), generator=generator).tolist()
    for start in starts:
        yield padded([rows[index] for index in order[start * size : (start + 1) * size]])


def masked(ids: torch.Tensor, mask_id: int, vocabulary_size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose 15 % of the tokens: 80 % of them become [MASK], 10 % a random token, 10 % stay. Return inputs, targets."""
    chosen = (torch.rand(ids.shape, generator=generator) < 0.15) & (ids >= len(SPECIALS))
    fate = torch.rand(ids.shape, generator=generator)
    strangers = torch.randint(len(SPECIALS), vocabulary_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.9), strangers, inputs)
    return inputs, ids.masked_fill(~chosen, IGNORED)


def masked_loss(model: BertForMaskedLM, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of the chosen tokens; only they go through the vocabulary projection."""
    hidden = model.bert(inputs, attention_mask=(inputs != 0).long()).last_hidden_state
    at = targets != IGNORED
    return torch.nn.functional.cross_entropy(model.cls(hidden[at]).float(), targets[at])


def train_teacher(rows: Sequence[list[int]], config: BertConfig, *, mask_id: int, steps: int, seed: int) -> BertForMaskedLM:
    """Train a masked language model on the rows; fresh masks every time a row comes by."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / (steps - warmup)))
    )
    step, began, running = 0, time.monotonic(), 0.0
    while step < steps:
        for ids in batches(rows, 64, generator):
            loss = masked_loss(model, *masked(ids, mask_id, config.vocab_size, generator))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            running += loss.item()
            step += 1
            if step % 250 == 0:
                print(f"step {step:5d}  loss {running / 250:.3f}  {time.monotonic() - began:.0f} s", flush=True)
                running = 0.0
            if step == steps:
                break
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the teacher does on text it has not seen."""

    loss: float  # masked-LM loss in nats per chosen token
    original: float  # mean p(input token) of unmasked tokens
    mass: dict[int, float]  # mean probability mass of the k most probable entries

    def line(self) -> str:
        """Return the numbers in one line."""
        mass = ", ".join(f"{value:.3f} at k={k}" for k, value in self.mass.items())
        return f"masked-LM loss {self.loss:.3f}; p(original) {self.original:.3f}; mass {mass}"


def measure(model: BertForMaskedLM, rows: Sequence[list[int]], mask_id: int) -> Measured:
    """Measure the teacher on the rows: masked (four draws of masks) and plain."""
    generator = torch.Generator().manual_seed(0)
    losses: list[float] = []
    originals: list[torch.Tensor] = []
    tops: list[torch.Tensor] = []
    with torch.inference_mode():
        for _ in range(4):
            for ids in batches(rows, 64, generator):
                losses.append(masked_loss(model, *masked(ids, mask_id, model.config.vocab_size, generator)).item())
        for ids in batches(rows, 64, generator):
            probabilities = model(ids, attention_mask=(ids != 0).long()).logits.softmax(-1)
            kept = ids >= len(SPECIALS)
            originals.append(probabilities.gather(-1, ids[..., None])[..., 0][kept])
            tops.append(probabilities[kept].topk(32).values.cumsum(-1))
    mass = torch.cat(tops).mean(0)
    return Measured(
        loss=sum(losses) / len(losses),
        original=torch.cat(originals).mean().item(),
        mass={k: mass[k - 1].item() for k in (1, 8, 32)},
    )


def write_teacher(folder: Path, model: BertForMaskedLM, tokenizer: Tokenizer, measured: Measured) -> None:
    """Write the model (float16 on disk, float32 when loaded), the tokenizer and the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    state = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items() if name not in tied}
    (folder / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    config = model.config.to_dict() | {"architectures": ["BertForMaskedLM"], "dtype": "float32"}
    config.pop("transformers_version", None)
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="ascii")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    (folder / "README.md").write_text(
        CARD.format(line=measured.line(), parameters=sum(value.numel() for value in model.parameters())),
        encoding="ascii",
    )


CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: fill-mask
---
# Demo teacher

A BERT-style masked language model with {parameters:,} parameters, for the demo corpus of short reviews next to it.
It is there to show and to test text smoothing without a download, and knows nothing but those reviews. Its
vocabulary holds the words of the corpus, letters, and pieces of words; other words are spelt in pieces.

Trained from scratch with `python -m textsmooth.pipeline.demo.build` on the train split and on further reviews from
the same grammar, never on the validation split. Weights are stored as float16 and load as float32.

Measured on the validation split (masked-LM loss in nats; p of the input token and captured mass on plain text):

{line}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Build everything, or only the corpus, as the options say."""
    parser = argparse.ArgumentParser(description="Make the demo corpus and the demo teacher again.")
    parser.add_argument("--out", type=Path, help="folder that gets corpus/ and teacher/ (default: in place)")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps, 64 reviews each (0: corpus only)")
    parser.add_argument("--rows", type=int, default=60000, help="further reviews that the teacher is trained on")
    parser.add_argument("--seed", type=int, default=1, help="seed of the teacher's weights, masks and batches")
    parser.add_argument("--vocabulary-size", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    write_corpus(options.out / "corpus" if options.out else corpus_folder())
    if options.steps <= 0:
        return
    splits = {split: [row["text"] for row in rows] for split, rows in corpus().items()}
    tokenizer = train_tokenizer(splits["train"], options.vocabulary_size)
    held_out = set(splits["validation"])
    further = [row["text"] for row in reviews(SEED + 1, options.rows) if row["text"] not in held_out]
    rows = encode(tokenizer, splits["train"] + further)
    mask_id = tokenizer.get_vocab()["[MASK]"]
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.get_vocab()["[PAD]"],
    )
    model = train_teacher(rows, config, mask_id=mask_id, steps=options.steps, seed=options.seed)
    model.half().float()  # measured as it will be loaded
    measured = measure(model, encode(tokenizer, splits["validation"]), mask_id)
    write_teacher(options.out / "teacher" if options.out else teacher_folder(), model, tokenizer, measured)
    print(measured.line())


if __name__ == "__main__":
    main()
