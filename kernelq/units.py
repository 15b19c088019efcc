"""Units: times are nanoseconds, sizes are bytes. Numbers in texts."""

_DIGITS_MAX = 40

MS = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def is_decimal(text: str) -> bool:
    """Whether int() may read the text: only digits, and not too many of them."""
    # Python refuses to read thousands of digits, in words of its own.
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
