"""Changes to files, all drawn from one seeded generator."""

import numpy as np

NUMBERS = (b"0", b"-1", b"1", b"2", b"1e9", b"-1e9", b"1e30", b"1e400", b"nan", b"inf", b"99999999999", b"0.5", b"1_0",
           b"4294967296", b"9223372036854775808", b"-0", b"0x10", b"\xc2\xb2", b"1,", b",", b"1e-300", b"2147483647",
           b"3", b"4", b"8", b"16", b"-2", b"-3", b"64")
TOKENS = (b"\n", b"\r", b"\0", b"=", b"[", b"]", b"{", b"}", b":", b",", b"#", b"&a ", b"*a", b"- ", b"? ", b"|", b'"',
          b"'", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"../", b"/", b"\\", b"\t", b" ", b"<a>", b"</a>", b"<!DOCTYPE",
          b"\xe2\x80\xa8", b"%", b"!!python/object:os.system ", b"<<: ", b"2024-01-01", b"null", b"~", b"true")
WHOLE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, 0x7FFFFFFFFFFFFFFF)
MOST_BYTES = 3 << 20


def mutated(rng: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """`content` after a few changes, mostly one or two, seldom none; `others` are files of its kind to splice in."""
    for _ in range(0 if rng.uniform() < 0.03 else int(rng.geometric(0.5))):
        content = CHANGES[int(rng.integers(len(CHANGES)))](rng, content, others)[:MOST_BYTES]
    return content


def _span(rng: np.random.Generator, content: bytes) -> tuple[int, int]:
    """Start and end of a part, mostly a short one."""
    start = int(rng.integers(len(content) + 1))
    return start, min(len(content), start + int(2 ** rng.uniform(0, 8)))


def flip(rng, content, others):
    """One bit."""
    if not content:
        return content
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1:]


def cut(rng, content, others):
    """A part goes."""
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def truncate(rng, content, others):
    """The end goes."""
    return content[:int(rng.integers(len(content) + 1))]


def noise(rng, content, others):
    """Random bytes in place of a part."""
    start, end = _span(rng, content)
    return content[:start] + rng.bytes(end - start) + content[end:]


def repeat(rng, content, others):
    """A part again and again."""
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * int(2 ** rng.uniform(0, 12)) + content[end:]


def token(rng, content, others):
    """A word that means something to some parser."""
    start, _ = _span(rng, content)
    return content[:start] + TOKENS[int(rng.integers(len(TOKENS)))] + content[start:]


def digits(rng, content, others):
    """Another number in place of one."""
    places = [i for i in range(len(content)) if 48 <= content[i] < 58][:5000]
    if not places:
        return token(rng, content, others)
    start = end = places[int(rng.integers(len(places)))]
    while end < len(content) and content[end:end + 1] in b"0123456789.":
        end += 1
    return content[:start] + NUMBERS[int(rng.integers(len(NUMBERS)))] + content[end:]


def integer(rng, content, others):
    """A binary number, of 1, 2, 4 or 8 bytes."""
    size = 1 << int(rng.integers(4))
    value = WHOLE[int(rng.integers(len(WHOLE)))] & (1 << 8 * size) - 1
    start = int(rng.integers(len(content) + 1))
    return content[:start] + value.to_bytes(size, "little" if rng.integers(2) else "big") + content[start + size:]


def lines(rng, content, others):
    """Two lines change places, or one is there twice."""
    parts = content.split(b"\n")
    one, two = (int(rng.integers(len(parts))) for _ in range(2))
    parts[one], parts[two] = (parts[two], parts[one]) if rng.integers(2) else (parts[two], parts[two])
    return b"\n".join(parts)


def splice(rng, content, others):
    """The start of one file and the end of another."""
    other = others[int(rng.integers(len(others)))] if others else content
    return content[:int(rng.integers(len(content) + 1))] + other[int(rng.integers(len(other) + 1)):]


CHANGES = (flip, flip, cut, truncate, noise, repeat, token, token, digits, digits, digits, integer, integer, lines,
           splice)


ODD = (None, 0, -1, 1 << 70, 1.5, float("nan"), float("inf"), "", "x", "\u00b2", [], [1], {}, {"a": 1}, (), True, b"x",
       "../../x", [["a"]] * 3, "a" * 5000)


def replaced(rng: np.random.Generator, value, odd=ODD):
    """A nested container in which one value is an odd one, or is gone, or stands under another key."""
    if isinstance(value, dict) and value and rng.uniform() < 0.8:
        keys = list(value)
        key = keys[int(rng.integers(len(keys)))]
        if (dice := rng.uniform()) < 0.1:
            return {other: value[other] for other in keys if other != key}
        if dice < 0.15:
            return value | {f"{key}x": value[key]}
        return value | {key: replaced(rng, value[key], odd)}
    if isinstance(value, list) and value and rng.uniform() < 0.8:
        place = int(rng.integers(len(value)))
        return [*value[:place], replaced(rng, value[place], odd), *value[place + 1:]]
    return odd[int(rng.integers(len(odd)))]
