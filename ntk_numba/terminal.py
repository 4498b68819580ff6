"""Text that others wrote, such as names in files, as it may be shown on a terminal."""

import unicodedata

# Controls; formats, which change the order of letters or hide them; halves of characters, which
# stand for bytes of names that are no text; and separators of lines and paragraphs.
ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # formats that ordinary words and emoji have


def escaped(text: str) -> str:
    r"""Return a text in which characters that a terminal would obey are escapes, as ``\x1b``.

    Letters, signs and emoji of all languages stay. A line break is escaped too.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ESCAPED and c not in JOINERS
        else c
        for c in text
    )
