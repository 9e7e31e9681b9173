"""What tests of masked-LM families share: tiny random models of each, random rows, and a dense reference."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.soft_ids.topk import Sparsifier, gather_soft_ids
from textsmooth.stages.tokens.masked_context import passes
from textsmooth.stages.tokens.tokenize import TokenRows

VOCAB, POSITIONS, TOPK, MASK, PAD = 90, 40, 6, 4, 1
WIDE = 96  # logits of a padded vocabulary
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": PAD,
}
FUNNEL = {k: v for k, v in SMALL.items() if k != "num_hidden_layers"}
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bert": {"type_vocab_size": 2},
    "big_bird": {"block_size": 4, "attention_type": "original_full"},
    "camembert": {},
    "convbert": {"embedding_size": 16},
    "data2vec-text": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False, "type_vocab_size": 0},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "share_att_key": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "legacy": False,
        "vocab_size": WIDE,
    },
    "distilbert": {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "ernie": {},
    "esm": {"mask_token_id": MASK, "token_dropout": True},
    "eurobert": {},
    "fnet": {},
    "funnel": {"d_model": 24, "n_head": 2, "d_head": 12, "d_inner": 48, "block_sizes": [1, 1]},
    "ibert": {},
    "jina_embeddings_v3": {},
    "layoutlm": {},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 12},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 12},
    "modernbert": {"vocab_size": WIDE, "global_attn_every_n_layers": 2, "local_attention": 6},
    "mpnet": {},
    "nomic_bert": {},
    "nystromformer": {},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": {"type_vocab_size": 1},
    "roberta-prelayernorm": {},
    "roformer": {"embedding_size": 24},
    "squeezebert": {"embedding_size": 24},
    "xlm": {"emb_dim": 24, "n_layers": 2, "n_heads": 2},
    "xlm-roberta": {"type_vocab_size": 1},
    "xlm-roberta-xl": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "yoso": {},
}


def make(name: str, folder: Path, **changes: Any) -> Any:
    """Save a tiny model whose every matrix is random, the rows of padding too."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.for_model(name, **{**(FUNNEL if name == "funnel" else SMALL), **FAMILIES[name], **changes})
    torch.manual_seed(3)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0.0, 0.4) if values.dim() > 1 else values.add_(torch.randn_like(values) * 0.1)
    model.save_pretrained(folder)
    return config


def random_rows(seed: int = 0, *, types: bool = False, shortest: int = 1) -> TokenRows:
    """Rows of up to 24 tokens, the first and the last of each special."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum([24, 3, 9, 2, 9, 1, 17, 5, 24, 4], shortest)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    special = np.zeros(offsets[-1], np.bool_)
    special[offsets[:-1]] = special[offsets[1:] - 1] = True
    return TokenRows(
        row_offsets=offsets,
        input_ids=rng.integers(5, VOCAB, offsets[-1]).astype(np.uint16),
        token_type_ids=(rng.random(offsets[-1]) < 0.5).astype(np.uint8) if types else None,
        special=special,
        truncated=0,
    )


def dense(folder: Path, rows: TokenRows, *, types: bool = False) -> NDArray[np.float64]:
    """[N, V] log-probabilities over the tokenizer's ids: the whole model in float64, one row at a time."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for low, high in zip(rows.row_offsets[:-1], rows.row_offsets[1:], strict=True):
        given = {"input_ids": torch.from_numpy(rows.input_ids[low:high].astype(np.int64))[None]}
        if types and rows.token_type_ids is not None:
            given["token_type_ids"] = torch.from_numpy(rows.token_type_ids[low:high].astype(np.int64))[None]
        with torch.no_grad():
            found.append(model(**given).logits[0, :, :VOCAB].double().numpy())
    logits = np.concatenate(found)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def soft_ids(teacher: Teacher, rows: TokenRows, wanted: NDArray[np.bool_], *, count: int = 1, chunk_tokens: int = 16) -> SoftIds:
    """All of it: batches, chunks, soft ids."""
    sparsify = Sparsifier(topk=TOPK, temperatures=(2.0,))
    original = torch.from_numpy(rows.input_ids.astype(np.int64))
    runs = passes(rows, wanted, count=count, mask_id=MASK)
    source = (batch for run in runs for batch in teacher.batches(run.tokens, run.wanted, max_batch_tokens=80, only=run.rows))
    found = list(
        chunks(teacher, source, chunk_tokens=chunk_tokens, use=lambda logits, where: sparsify(logits[: len(where)], original[where]))
    )
    positions = np.concatenate([where for _, where in found])
    assert sorted(positions.tolist()) == np.flatnonzero(wanted).tolist()
    return gather_soft_ids([c for c, _ in found], positions, tokens=len(original), vocab_size=VOCAB, temperatures=1)


def assert_parity(soft: SoftIds, exact: NDArray[np.float64], rows: TokenRows, wanted: NDArray[np.bool_], atol: float = 1e-4) -> None:
    assert (np.diff(soft.offsets) == TOPK * wanted).all()
    ids, logprobs = soft.ids.reshape(-1, TOPK).astype(np.int64), soft.logprobs.reshape(-1, TOPK)
    exact, original = exact[wanted], rows.input_ids[wanted].astype(np.int64)
    ordered = -np.sort(-exact, axis=1)
    np.testing.assert_allclose(logprobs, ordered[:, :TOPK], atol=atol)
    np.testing.assert_allclose(logprobs, np.take_along_axis(exact, ids, 1), atol=atol)
    np.testing.assert_allclose(soft.log_tail[wanted], np.logaddexp.reduce(ordered[:, TOPK:], axis=1), atol=atol)
    np.testing.assert_allclose(soft.original_logprob[wanted], np.take_along_axis(exact, original[:, None], 1)[:, 0], atol=atol)
    np.testing.assert_allclose(soft.log_partition[wanted, 0], np.logaddexp.reduce(exact / 2.0, axis=1), atol=atol)
