"""Break streamed text between words. Pure: text in, text out; knows no terminal.

wrap = WordWrap(width=20)
for piece in pieces:
    print(wrap.push(piece), end="")
print(wrap.flush())
"""

from __future__ import annotations

from unicodedata import east_asian_width

_N_HELD = 32  # columns; a longer word is shown while it grows


class WordWrap:
    """Holds a word back until it ends, and puts it on a new line if it does not fit on this one.

    Words that are too long to wait for, and scripts that write without spaces, are passed on at once and left to the
    terminal to break.
    """

    def __init__(self, width: int) -> None:
        self.width, self.column = width, 0
        self._word = self._space = ""

    def push(self, text: str) -> str:
        """Text that can be shown now."""
        shown = []
        for char in text:
            if char == "\n":
                shown += [self._take(), "\n"]
                self.column, self._space = 0, ""
            elif char.isspace():
                shown.append(self._take())
                self._space += char
            else:
                self._word += char
                if _columns(char) == 2 or len(self._word) >= _N_HELD:
                    shown.append(self._take())
        return "".join(shown)

    def flush(self) -> str:
        """The rest; the next text begins a new line."""
        rest = self._take()
        self.column, self._space = 0, ""
        return rest

    def _take(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        space, self._space = self._space, ""
        n_word, n_space = _columns(word), len(space)
        if space and self.column and self.column + n_space + n_word > self.width:
            self.column = n_word
            return "\n" + word
        self.column += n_space + n_word
        if self.column > self.width:  # the terminal broke it
            self.column %= self.width
        return space + word


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)
