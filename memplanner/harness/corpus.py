"""Real text as token ids without a tokenizer's files: Python's own documentation, one token per word or mark."""

import functools
import pydoc_data.topics
import re
import zlib


@functools.cache
def words() -> tuple[str, ...]:
    """The documentation's words and marks in order: a quarter of a million, as unevenly distributed as in any text."""
    topics = pydoc_data.topics.topics
    return tuple(re.findall(r"\w+|[^\w\s]", "\n".join(topics[name] for name in sorted(topics))))


def token_ids(start: int, count: int, vocab_size: int) -> list[int]:
    """`count` ids below `vocab_size`, from word `start` on and around at the end; equal words have equal ids."""
    text = words()
    return [zlib.crc32(text[(start + i) % len(text)].encode()) % vocab_size for i in range(count)]
