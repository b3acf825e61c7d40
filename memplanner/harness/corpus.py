"""Real text as token ids, without a tokenizer's files: Python's own documentation, a word or mark a token."""

import functools
import pydoc_data.topics
import re
import zlib


@functools.cache
def words() -> tuple[str, ...]:
    """The documentation's words and marks in order; a quarter of a million of them, as unevenly spread as words are."""
    topics = pydoc_data.topics.topics
    return tuple(re.findall(r"\w+|[^\w\s]", "\n".join(topics[name] for name in sorted(topics))))


def token_ids(start: int, count: int, vocab_size: int) -> list[int]:
    """`count` ids below `vocab_size` from word `start` on, around at the end; a word always has the same id."""
    text = words()
    return [zlib.crc32(text[(start + i) % len(text)].encode()) % vocab_size for i in range(count)]
