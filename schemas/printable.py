"""Text of strangers, safe to show: names and paths of a dataset may hold whatever somebody wrote into it."""


def printable(text: str) -> str:
    """The text on one line, characters that would steer a terminal or turn the reading direction written as escapes."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8
        return f"<0x{ord(char) - 0xDC00:02X}>"
    return char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
