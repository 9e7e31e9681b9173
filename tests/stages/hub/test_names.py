"""Names of repositories on the Hub: which ones are sent to it."""

import pytest

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.corpus.open import open_corpus
from textsmooth.stages.hub.names import DATASET_NAME, MODEL_NAME


@pytest.mark.parametrize("name", ["owner/name", "nyu-mll/glue", "_a/b.c-d_e", "A1/9", "google-bert/bert-base-uncased"])
def test_names_with_an_owner_are_datasets_and_models(name: str) -> None:
    assert DATASET_NAME.fullmatch(name) and MODEL_NAME.fullmatch(name)


def test_only_a_model_may_have_no_owner() -> None:
    assert MODEL_NAME.fullmatch("bert-base-uncased") and not DATASET_NAME.fullmatch("bert-base-uncased")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "./bert", "../bert", "-a/b", "a/-b", "a/.b", "a/b/c", "a//b", "/a/b", "a/b/", "a/b@c", "a b/c", "é/b"]
)
def test_paths_and_other_texts_are_no_names(name: str) -> None:
    assert not DATASET_NAME.fullmatch(name) and not MODEL_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["tiny/reviews.jsonl", "tiny/reviews.parquet.gz", "./reviews", "../reviews:x", "squad.jsonl", "a/b/c"])
def test_a_missing_file_or_folder_is_not_looked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*args: object, **named: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("textsmooth.stages.corpus.hub.hub_corpus", unexpected)
    with pytest.raises(UsageError, match="no corpus") as raised:
        open_corpus(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["glue", "glue/qnlu", "GLUE:qnli", "squad_v3"])
def test_a_name_like_a_task_lists_the_tasks(name: str) -> None:
    with pytest.raises(UsageError, match=rf"no task '{name}': there are glue/cola"):
        open_corpus(name)
