"""Canonical JSON: one value has one text, whichever library writes it."""

from textsmooth.schemas.canonical import digest, fast_digest


def test_the_fast_digest_is_that_of_the_canonical_text() -> None:
    shards = [{"path": 'a"b\\c\n\x01\x7f\u2028é😀', "rows": 1 << 53, "windows": None, "Z": -1}, {}]
    for value in ({"shards": shards, "é": 0.1, "plan": [1e16, 1e-5, True]}, {"shards": []}, {"plan": {"b": 1, "a": 2}}, {}):
        assert fast_digest(value, "shards") == digest(value)
    assert fast_digest({"shards": [1]}, "shards") != digest({"shards": [2]})
