"""The letters on charts: a bitmap font of our own, printable ASCII, drawn below.

A cell is nine rows: seven above the baseline, two for descenders; glyphs have their own widths, digits
all the same, so that numbers in a column line up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HEIGHT_PX = 9
"""Rows of a line of text at scale 1, descenders included."""
CAPITAL_PX = 7
"""Rows of a capital or a digit at scale 1."""

Mask = NDArray[np.bool_]

_FIRST = " "
_UNKNOWN = "?"
# Every glyph in the order of ASCII, sixteen to a block, a blank column between them.
_ART = """
... # #.# .#.#. ..#.. ##..# .##.. # ..# #.. ..... ..... .. .... . ....#
... # #.# .#.#. .#### ##..# #..#. # .#. .#. ..#.. ..#.. .. .... . ...#.
... # ... ##### #.#.. ...#. #.#.. . #.. ..# #.#.# ..#.. .. .... . ...#.
... # ... .#.#. .###. ..#.. .#... . #.. ..# .###. ##### .. #### . ..#..
... # ... ##### ..#.# .#... #.#.# . #.. ..# #.#.# ..#.. .. .... . .#...
... . ... .#.#. ####. #..## #..#. . .#. .#. ..#.. ..#.. .# .... . .#...
... # ... .#.#. ..#.. #..## .##.# . ..# #.. ..... ..... .# .... # #....
... . ... ..... ..... ..... ..... . ... ... ..... ..... #. .... . .....
... . ... ..... ..... ..... ..... . ... ... ..... ..... .. .... . .....

.###. ..#.. .###. .###. ...#. ##### ..##. ##### .###. .###. . .. ...# .... #... .###.
#...# .##.. #...# #...# ..##. #.... .#... ....# #...# #...# . .. ..#. .... .#.. #...#
#...# ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...# . .. .#.. #### ..#. ....#
#...# ..#.. ...#. ..##. #..#. ....# ####. ...#. .###. .#### # .# #... .... ...# ...#.
#...# ..#.. ..#.. ....# ##### ....# #...# ..#.. #...# ....# . .. .#.. #### ..#. ..#..
#...# ..#.. .#... #...# ...#. #...# #...# ..#.. #...# ...#. . .. ..#. .... .#.. .....
.###. .###. ##### .###. ...#. .###. .###. ..#.. .###. .##.. # .# ...# .... #... ..#..
..... ..... ..... ..... ..... ..... ..... ..... ..... ..... . #. .... .... .... .....
..... ..... ..... ..... ..... ..... ..... ..... ..... ..... . .. .... .... .... .....

.####. ..#.. ####. .###. ####. ##### ##### .###. #...# ### ...# #...# #.... #...# #...# .####.
#....# .#.#. #...# #...# #...# #.... #.... #...# #...# .#. ...# #..#. #.... ##.## ##..# #....#
#.##.# .#.#. #...# #.... #...# #.... #.... #.... #...# .#. ...# #.#.. #.... #.#.# ##..# #....#
#.##.# #...# ####. #.... #...# ####. ####. #..## ##### .#. ...# ##... #.... #.#.# #.#.# #....#
#.###. ##### #...# #.... #...# #.... #.... #...# #...# .#. ...# #.#.. #.... #...# #..## #....#
#..... #...# #...# #...# #...# #.... #.... #...# #...# .#. #..# #..#. #.... #...# #..## #....#
.####. #...# ####. .###. ####. ##### #.... .#### #...# ### .##. #...# ##### #...# #...# .####.
...... ..... ..... ..... ..... ..... ..... ..... ..... ... .... ..... ..... ..... ..... ......
...... ..... ..... ..... ..... ..... ..... ..... ..... ... .... ..... ..... ..... ..... ......

####. .####. ####. .#### ##### #...# #...# #.....# #...# #...# ##### ### #.... ### ..#.. .....
#...# #....# #...# #.... ..#.. #...# #...# #.....# #...# #...# ....# #.. .#... ..# .#.#. .....
#...# #....# #...# #.... ..#.. #...# #...# #..#..# .#.#. .#.#. ...#. #.. .#... ..# #...# .....
####. #....# ####. .###. ..#.. #...# .#.#. #..#..# ..#.. ..#.. ..#.. #.. ..#.. ..# ..... .....
#.... #..#.# #.#.. ....# ..#.. #...# .#.#. #.#.#.# .#.#. ..#.. .#... #.. ...#. ..# ..... .....
#.... #...#. #..#. ....# ..#.. #...# .#.#. #.#.#.# #...# ..#.. #.... #.. ...#. ..# ..... .....
#.... .###.# #...# ####. ..#.. .###. ..#.. .#...#. #...# ..#.. ##### ### ....# ### ..... .....
..... ...... ..... ..... ..... ..... ..... ....... ..... ..... ..... ... ..... ... ..... #####
..... ...... ..... ..... ..... ..... ..... ....... ..... ..... ..... ... ..... ... ..... .....

#. ..... #.... .... ....# ..... ..## ..... #.... # ..# #... #. ....... ..... .....
.# ..... #.... .... ....# ..... .#.. ..... #.... . ... #... #. ....... ..... .....
.. .###. ####. .### .#### .###. #### .#### ####. # ..# #..# #. ###.##. ####. .###.
.. ....# #...# #... #...# #...# .#.. #...# #...# # ..# #.#. #. #..#..# #...# #...#
.. .#### #...# #... #...# ##### .#.. #...# #...# # ..# ##.. #. #..#..# #...# #...#
.. #...# #...# #... #...# #.... .#.. #...# #...# # ..# #.#. #. #..#..# #...# #...#
.. .#### ####. .### .#### .###. .#.. .#### #...# # ..# #..# .# #..#..# #...# .###.
.. ..... ..... .... ..... ..... .... ....# ..... . ..# .... .. ....... ..... .....
.. ..... ..... .... ..... ..... .... .###. ..... . ##. .... .. ....... ..... .....

..... ..... .... ..... .#.. ..... ..... ....... ..... ..... ..... ..## # ##.. .....
..... ..... .... ..... .#.. ..... ..... ....... ..... ..... ..... .#.. # ..#. .....
####. .#### #.## .#### #### #...# #...# #..#..# #...# #...# ##### .#.. # ..#. .....
#...# #...# ##.. #.... .#.. #...# #...# #..#..# .#.#. #...# ...#. #... # ...# .##.#
#...# #...# #... .###. .#.. #...# .#.#. #..#..# ..#.. #...# ..#.. .#.. # ..#. #.##.
#...# #...# #... ....# .#.. #...# .#.#. #.#.#.# .#.#. #...# .#... .#.. # ..#. .....
####. .#### #... ####. ..## .#### ..#.. .#...#. #...# .#### ##### ..## # ##.. .....
#.... ....# .... ..... .... ..... ..... ....... ..... ....# ..... .... # .... .....
#.... ....# .... ..... .... ..... ..... ....... ..... .###. ..... .... . .... .....
"""


def _glyphs() -> Mapping[str, Mask]:
    """Return the glyphs, each with a blank column after it."""
    found: list[Mask] = []
    for block in _ART.strip().split("\n\n"):
        rows = [line.split(" ") for line in block.splitlines()]
        found += [
            np.array([[dot == "#" for dot in f"{part}."] for part in glyph])
            for glyph in zip(*rows, strict=True)
        ]
    return {chr(ord(_FIRST) + index): glyph for index, glyph in enumerate(found)}


_GLYPHS = _glyphs()
_WIDTHS = {letter: int(glyph.shape[1]) for letter, glyph in _GLYPHS.items()}
_GAP = np.zeros((HEIGHT_PX, 1), dtype=np.bool_)


def printable(text: str) -> str:
    """Return the text with a question mark for what the font has no glyph for."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in _GLYPHS else _UNKNOWN for letter in text)


def text_mask(text: str, scale: int = 1, *, bold: bool = False, channels: int = 1) -> Mask:
    """Return the pixels of one line: (9 * scale, width * channels) bool.

    Args:
        text: Printable ASCII; anything else becomes a question mark.
        scale: Pixels per dot, > 0.
        bold: Strokes twice as wide.
        channels: How often each column is repeated.
    """
    mask = _dots(printable(text), bold, channels)
    return mask if scale == 1 else mask.repeat(scale, axis=0).repeat(scale, axis=1)


def text_width(text: str, scale: int = 1, *, bold: bool = False) -> int:
    """Return how many columns `text_mask` fills."""
    letters = printable(text)
    dots = sum([_WIDTHS[letter] for letter in letters]) + len(letters) * bold
    return max(dots - 1, 0) * scale


@lru_cache(maxsize=512)  # charts repeat most of their texts; a few kB each
def _dots(letters: str, bold: bool, channels: int) -> Mask:
    glyphs = [_GLYPHS[letter] for letter in letters]
    if bold:
        glyphs = [part for glyph in glyphs for part in (glyph, _GAP)]
    mask = np.concatenate(glyphs, axis=1)[:, :-1].copy() if glyphs else _GAP[:, :0].copy()
    if bold:
        mask[:, 1:] |= mask[:, :-1].copy()
    mask = mask.repeat(channels, axis=1)
    mask.flags.writeable = False
    return mask
