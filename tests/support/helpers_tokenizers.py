"""Tokenizers as no class of transformers builds them: one of each kind, with a normalizer and a pre-tokenizer of its own."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
LETTERS = [*"abcdefghijklmnopqrstuvwxyzéABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:/?!'東京日本"]


def template(backend: Tokenizer, first: str, last: str) -> Tokenizer:
    ids = [(token, backend.token_to_id(token)) for token in (first, last)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ids
    )
    return backend


def word_pieces(*, lowercase: bool = True) -> Tokenizer:
    """A WordPiece tokenizer that also replaces addresses and splits numbers into digits."""
    words = ["the", "The", "capital", "url", "is", "##s", "2023", "paris", "cafe"]
    vocab = [*BERT.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS), *words]
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="[UNK]", max_input_chars_per_word=100))
    replace = normalizers.Replace(Regex(r"https?://\S+"), "url")
    backend.normalizer = normalizers.Sequence([replace, normalizers.BertNormalizer(lowercase=lowercase)])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)])
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(token, special=True) for token in BERT.values()])
    backend.add_tokens([AddedToken("[NEW]", normalized=False)])
    return template(backend, "[CLS]", "[SEP]")


def byte_pairs() -> Tokenizer:
    """A byte-level BPE that lower-cases and keeps numbers together in groups of three."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("2", "0")]
    vocab = [*dict.fromkeys(ROBERTA.values()), *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, merges))
    backend.normalizer = normalizers.Lowercase()
    digits = pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(ROBERTA.values())])
    return template(backend, "<s>", "</s>")


def pieces() -> Tokenizer:
    """A Unigram model with sentencepiece's spaces that lower-cases and strips accents."""
    words = ["▁the", "▁capital", "▁", "is", "the", "東京", *LETTERS]
    vocab = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")] + [(word, -1.0 - n / 9) for n, word in enumerate(words)]
    backend = Tokenizer(models.Unigram([*vocab, ("<mask>", 0.0)], unk_id=3))
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(ROBERTA.values())])
    return template(backend, "<s>", "</s>")
