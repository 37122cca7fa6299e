"""The size of a picture as an option and as a name: 240, or ROWSxCOLUMNS."""

from __future__ import annotations

import argparse

Size = int | tuple[int, int]  # pixels of a side, or (rows, columns)


def named(size: Size) -> str:
    """Format a size as '240' or, rows first, '240x320', for `parse_size`."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def parse_size(text: str) -> Size:
    """Parse '240' to 240 and '240x320' (rows first) to (240, 320). Raises argparse's error otherwise."""
    try:
        numbers = [int(part) for part in text.split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(64 <= number <= 512 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} must be pixels a side or ROWSxCOLUMNS, 64 to 512: 240, 240x320")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
