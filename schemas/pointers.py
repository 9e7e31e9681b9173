"""The small files that Git LFS and git-annex leave in place of those that were not downloaded."""

POINTER_BYTES = 1024  # the longest
_STARTS = {b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"), b"/annex/objects/": ("git-annex", "git annex get")}


def pointer(content: bytes) -> str | None:
    """`a Git LFS pointer, not the file: git lfs pull` for the content of such a file, else None."""
    for start, (name, command) in _STARTS.items():
        if content.startswith(start):
            return f"a {name} pointer, not the file: {command}"
    return None
