"""Sheets of pictures: every picture whole, every caption legible."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from ditzoo.grid import GAP, LINE, MOST_LINES, caption_lines, grid

LONG = ["light skin, long red hair, green shirt, happy, navy background", "dark skin, short black hair, glasses"]
SIDE = 80  # of a 16x16 picture, enlarged five times


def pictures(count):
    return [Image.new("RGB", (16, 16), (200, 10 * index, 0)) for index in range(count)]


def shades(sheet, rows, columns):
    """What lies in a part of a sheet that holds text or nothing."""
    return np.asarray(sheet.convert("L"))[rows, columns]


def test_a_caption_of_one_line_stands_beneath_each_picture():
    sheet = grid(pictures(4), ["bag", "coat"] * 2)
    assert sheet.size == (2 * (SIDE + GAP) + GAP, 2 * (SIDE + 18 + GAP) + GAP)
    for row in range(2):
        top = GAP + row * (SIDE + 18 + GAP)
        assert shades(sheet, slice(top + SIDE, top + SIDE + 18), slice(GAP, GAP + SIDE)).min() < 100


def test_long_captions_are_broken_between_words_and_none_is_cut():
    font = ImageFont.load_default(size=12)
    for caption in LONG:
        lines = caption_lines(caption, SIDE, font)
        assert " ".join(lines) == caption
        assert max(map(font.getlength, lines)) <= SIDE
    sheet = grid(pictures(3), [LONG[0], LONG[1], "hat"], columns=3)
    tallest = len(caption_lines(LONG[0], SIDE, font))
    assert sheet.height == SIDE + LINE * tallest + 3 + 2 * GAP
    last = slice(GAP + SIDE + 2 + LINE * (tallest - 1), sheet.height)
    assert shades(sheet, last, slice(GAP, GAP + SIDE)).min() < 100  # the last line is within the sheet
    assert shades(sheet, last, slice(2 * GAP + SIDE, sheet.width)).min() == 255  # and shorter captions end before it


def test_long_captions_that_rows_repeat_head_their_columns():
    sheet = grid(pictures(6), LONG * 3)
    top = sheet.height - 3 * (SIDE + GAP) - GAP
    assert shades(sheet, slice(0, top), slice(None)).min() < 100
    for index in range(6):
        x, y = GAP + index % 2 * (SIDE + GAP), top + GAP + index // 2 * (SIDE + GAP)
        assert np.asarray(sheet)[y : y + SIDE, x : x + SIDE].reshape(-1, 3).tolist() == [[200, 10 * index, 0]] * SIDE**2


@pytest.mark.parametrize("caption", ["word " * 60, "x" * 60])
def test_what_does_not_fit_ends_in_an_ellipsis(caption):
    lines = caption_lines(caption, SIDE, ImageFont.load_default(size=12))
    assert len(lines) <= MOST_LINES
    assert lines[-1].endswith("…")


def test_every_picture_has_a_caption():
    with pytest.raises(ValueError, match="zip"):
        grid(pictures(3), ["bag", "coat"])
