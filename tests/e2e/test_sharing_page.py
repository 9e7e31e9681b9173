"""What docs/sharing.md says runs, against a stand-in for the Hub."""

import sys
from pathlib import Path

import pytest
from helpers_docs import ROOT, blocks, commands, run
from helpers_share import TOKEN, at_head
from hub_server import Hub

PAGE = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")


@pytest.mark.docs
def test_every_command_of_the_page_on_sharing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub(tmp_path / "hub") as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        for name, value in {**settings, "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "desk").mkdir()
        said = [run(words, tmp_path / "desk") for words in commands(PAGE)]
        assert "me/reviews  (private)" in said[1] and "the corpus text is inside" in said[1]
        assert at_head(hub, "datasets/me/reviews").keys() == {
            path.relative_to(tmp_path / "desk/copies/reviews").as_posix()
            for path in (tmp_path / "desk/copies/reviews").rglob("*")
            if path.is_file()
        }
        (code,) = blocks(PAGE, "python")
        assert run([sys.executable, "-c", code], tmp_path / "desk").endswith("True\n")
