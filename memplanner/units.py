"""Bytes in and out of text. 1 GB is 10^9 bytes, 1 GiB is 2^30; the two are never mixed."""

import re

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_FACTORS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]i?b|b)", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
MAX_BYTES = 1 << 60


def parse_size(text: str) -> int:
    """Bytes of a size such as "22GiB", "512 MiB" or "1000000 B", or of "0"; ValueError for anything else."""
    if text.strip() == "0":
        return 0
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as '22GiB', '24 GB' or '512MiB'")
    number, unit = match.groups()
    size = round(float(number) * _FACTORS[unit.lower()])
    if size > MAX_BYTES:
        raise ValueError(f"{text!r} is more memory than any device has")
    return size


def parse_share(text: str) -> float:
    """A share such as "95%" as 0.95; ValueError outside 0%..100%."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{text!r} is not a share such as '95%'")
    return float(match[1]) / 100


def format_bytes(num_bytes: int, *, decimals: int = 2) -> str:
    """Bytes for people, in binary units: 1536 -> "1.50 KiB", 0 -> "0 B"."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(size) < 1024 or unit == "PiB":
            break
        size /= 1024
    return f"{num_bytes} B" if unit == "B" else f"{size:.{decimals}f} {unit}"


def format_count(count: int) -> str:
    """A count for people: 6738415616 -> "6.738 B", 58.07 M and so on (short scale)."""
    for limit, suffix in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= limit:
            return f"{count / limit:.3f} {suffix}"
    return str(count)
