"""Do the answers of a span corpus come back from their token positions? Every row, no teacher run.

    python benchmarks/spans.py --corpus FOLDER --teacher FOLDER [--split train] [--max-length 384] [--stride 128]

exact    the characters of the stored tokens are the answer
wider    they contain it, and only its first or last token reaches beyond: an answer that begins or ends inside a token
lost     no window holds all of the answer's tokens
Exits with 1 if any row is none of these, or lost.
"""

import argparse
import sys
import time
from collections import Counter

from textsmooth.pipeline.plan.resolve import resolve_request
from textsmooth.pipeline.plan.rows import row_columns
from textsmooth.schemas.config import GenerateOptions
from textsmooth.stages.corpus.reader import scan
from textsmooth.stages.tokens.answer_spans import answer_text, find_spans
from textsmooth.stages.tokens.tokenize import tokenize


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    asked = resolve_request(
        GenerateOptions(
            corpus=args.corpus, teacher=args.teacher, splits=(args.split,), max_length=args.max_length, stride=args.stride, dtype="float32"
        )
    )
    identity, config = asked.identity, asked.config
    start, seen, samples = time.perf_counter(), Counter[str](), []
    for file in asked.corpus.files:
        for part in scan(file, row_columns(identity), rows=config.rows_per_shard, limit=args.limit):
            questions, contexts, answers = (part.rows[name] for name in ("question", "context", "answers"))
            tokens = tokenize(
                asked.tokenizer,
                questions,
                contexts,
                max_length=config.max_length,
                vocab_size=asked.teacher.vocab_size,
                stride=config.stride,
                char_spans=True,
            )
            assert tokens.char_spans is not None
            spans = find_spans(tokens, answers, part.count)
            seen["rows"] += part.count
            seen["windows"] += len(tokens)
            seen["unanswerable"] += int((~spans.answerable).sum())
            seen["lost"] += int(spans.lost.sum())
            kinds: dict[int, str] = {}
            for w, row in enumerate(tokens.source.tolist()):
                if not spans.end[w]:
                    continue
                places = tokens.char_spans[tokens.row_offsets[w] : tokens.row_offsets[w + 1]]
                first, last = int(spans.start[w]), int(spans.end[w])
                text, low = answers[row]["text"][0], answers[row]["answer_start"][0]
                found = answer_text(contexts[row], places, first, last)
                begins, ends = int(places[first, 0]), int(places[last, 1])
                tight = places[first, 1] > low and places[last, 0] < low + len(text)  # both share characters with the answer
                inside = contexts[row][low : low + len(text)] == text and begins <= low + len(text) - len(text.lstrip())
                inside = inside and ends >= low + len(text.rstrip())
                kind = "exact" if found == text else "wider" if tight and inside else "wrong"
                if kinds.setdefault(row, kind) != kind:
                    kind = kinds[row] = "wrong"
                if kind != "exact" and len(samples) < 5:
                    samples.append((kind, text, found))
            seen.update(kinds.values())
    seconds = time.perf_counter() - start
    whole = seen["exact"] + seen["wider"] + seen["lost"] + seen["unanswerable"]
    for name in ("rows", "windows", "exact", "wider", "unanswerable", "lost", "wrong"):
        print(f"{name:<13}{seen[name]:>9,}")
    print(f"{seen['rows'] / seconds:,.0f} rows/s")
    for kind, text, found in samples:
        print(f"  {kind}: {text!r} -> {found!r}")
    return int(seen["lost"] > 0 or seen["wrong"] > 0 or whole != seen["rows"])


if __name__ == "__main__":
    sys.exit(main())
