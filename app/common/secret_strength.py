"""Which secrets and passwords are found by whoever tries: the short, the monotonous, the placeholders.

No list can hold every weak secret. This refuses what people leave in a configuration without choosing it
(`changeme-changeme`, `MAKE-ONE-WITH-openssl-rand-hex-32`, `sk-xxxxxxxxxxxxxxxx`, `0123456789abcdef`), and
lets pass whatever has one word of its own.
"""

import re
from itertools import pairwise

SECRET_MIN_CHARS = 16
# Shorter passwords can be found by trying.
PASSWORD_MIN_CHARS = 12

_FEWEST_DIFFERENT = 5
_RUN_SHARE = 0.75
_MOST_DIGITS = 8

# What placeholders are made of, and what stands around it.
_WORDS = frozenset(
    " ".join(
        (
            "change changed changeme changethis replace replaced replaceme insert put enter set fill make",
            "made create generate choose use paste your yours my me mine our this that the an one another",
            "some any it with here in into for of by to and or not is be do please before first now later",
            "todo fixme tbd default defaults example examples sample placeholder dummy fake foo bar baz",
            "foobar production prod local localhost env environment variable value random randomly secure",
            "strong long very super top safe hex base64 rand openssl char chars characters string text",
            "bytes bits something anything nothing none null undefined unset empty secret secrets key keys",
            "token tokens api apikey admin administrator admins root user username client proxy server",
            "service upstream password passwords passwd pass passphrase pwd phrase credential credentials",
            "auth bearer basic login session cookie sk pk weir ohmygpt openai anthropic qwertyuiop qwerty",
            "qwertz azerty asdfghjkl asdfgh asdf zxcvbnm letmein welcome iloveyou monkey dragon football",
            "baseball sunshine princess master shadow superman batman trustno hello world abc abcd",
        )
    ).split()
)
_LONGEST_WORD = max(map(len, _WORDS))
_FILLER = re.compile(rf"[\W_]+|(.)\1{{2,}}|[0-9]{{1,{_MOST_DIGITS}}}|(?<![^\W_])a(?![^\W_])")
_NO_LETTERS = re.compile(r"[0-9\W_]*")


def weakness(secret: str, least: int, *names: str) -> str | None:
    """Say what is weak about a secret of at least `least` characters; None: nothing that can be seen.

    `names` are words that say nothing either, such as the name of the user whose password this is.
    """
    if len(secret) < least:
        return "this one is shorter"
    folded = secret.lower()
    if len(set(folded)) < _FEWEST_DIFFERENT or _is_repeated(folded):
        return "this one is the same again and again"
    if _is_run(folded):
        return "this one is a row of neighbours, such as 123456"
    own = {name.lower() for name in names if name}
    if not _NO_LETTERS.fullmatch(folded) and _is_made_of_words(folded, own):
        return "this one is a placeholder"
    return None


def _is_repeated(text: str) -> bool:
    return text in (text + text)[1:-1]


def _is_run(text: str) -> bool:
    steps = [ord(after) - ord(before) for before, after in pairwise(text)]
    return sum(-1 <= step <= 1 for step in steps) >= _RUN_SHARE * len(steps)


def _is_made_of_words(text: str, own: set[str]) -> bool:
    """Return whether the text falls into known words, separators, short numbers and repeated characters.

    Each position is looked at once, whatever the number of ways to get there.
    """
    words = _WORDS | own
    longest = max(_LONGEST_WORD, *map(len, own)) if own else _LONGEST_WORD
    reached = {0}
    for start in range(len(text)):
        if start not in reached:
            continue
        if filler := _FILLER.match(text, start):
            reached |= set(range(start + 1, filler.end() + 1)) if filler[1] is None else {filler.end()}
        reached |= {
            start + length for length in range(1, longest + 1) if text[start : start + length] in words
        }
    return len(text) in reached
