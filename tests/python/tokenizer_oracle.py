"""Ids from Hugging Face `tokenizers`, as the oracle of tests/oracle/tokenizer_hugging_face_test.ts.

    python tokenizer_oracle.py ids TOKENIZER_JSON COUNT SEED       seeded random texts and their ids
    python tokenizer_oracle.py encode TOKENIZER_JSON < texts       ids of JSON strings, one a line

`ids` and `encode` write one JSON line per text; ids are without special tokens added.
"""

import json
import os
import random
import sys
import unicodedata

# One thread, as the module has; read by the library when it is imported.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402

SPACES = [c for c in map(chr, range(0x3001)) if c.isspace() or c in "\x1c\x1d\x1e\x1f\u200b\u2060\ufeff"]
ASCII = [chr(c) for c in range(0x20, 0x7F)]
WORDS = ["the", " quick", "Brown", "fox's", "don't", " naïve", "Straße", "fiancée", "ΑΒΓ", "мир", "ﬁn",
         "func(", "self.x", "==", "://", "#include", "</div>", "été", "ÿøùþ", "übung", "O'Neil", "1st"]
CJK = "的一是不了人我在有他这中大来上国你好世界，。！？、「」（）～：；＂　"
KANA_HANGUL = "あいうえおのはをがアイウエオ・ーヴ゛゜가나다라한국어"
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧", "🇩🇪", "❤️", "🎉", "☃", "\u20e3", "\ufe0f", "\u200d"]
COMBINING = ["\u0301", "\u0308", "\u093f", "\u0e31", "\u1dc4", "\u20d0", "\ufe20", "\U0001d167"]
DIGITS = [c for c in map(chr, range(0x20000)) if unicodedata.category(c) in ("Nd", "Nl", "No")]
# Where the classes of the split patterns begin and end, and code points that normalization changes.
BORDERS = [0x1C, 0x2F, 0x3A, 0x40, 0x5B, 0x60, 0x7B, 0x7F, 0x85, 0xA0, 0xB5, 0xC0, 0xD7, 0xF7, 0x1BA, 0x294,
           0x370, 0x483, 0x48A, 0x58A, 0x7FF, 0x800, 0x10A0, 0x1680, 0x180E, 0x1C90, 0x1D2C, 0x1F7D, 0x1FD3,
           0x2000, 0x200B, 0x2018, 0x201F, 0x2020, 0x2028, 0x202F, 0x205F, 0x2126, 0x212A, 0x3000, 0x3002,
           0x3003, 0x3040, 0x309F, 0x30A0, 0x30FF, 0x3100, 0x4DFF, 0x4E00, 0x9FA5, 0x9FA6, 0xAC00, 0xD7FF,
           0xE000, 0xF8FF, 0xFB00, 0xFB06, 0xFEFF, 0xFF01, 0xFF0F, 0xFF1A, 0xFF5E, 0xFFFD, 0xFFFE, 0x10400,
           0x104FF, 0x11DE0, 0x16FF4, 0x1E900, 0x1E943, 0xF0000, 0x10FFFF]


def random_text(rng, added):
    """A text of up to a few hundred characters, from generators that change every few characters."""
    generators = [
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
        lambda: chr(rng.randrange(0x250)),
        lambda: rng.choice(ASCII),
        lambda: rng.choice(WORDS),
        lambda: rng.choice(SPACES),
        lambda: rng.choice(" \n\r\t"),
        lambda: rng.choice(CJK),
        lambda: chr(rng.randrange(0x4E00, 0x9FB0)),
        lambda: rng.choice(KANA_HANGUL),
        lambda: rng.choice(EMOJI),
        lambda: rng.choice(COMBINING),
        lambda: rng.choice(DIGITS),
        lambda: rng.choice("0123456789"),
        lambda: chr(min(0x10FFFF, max(0, rng.choice(BORDERS) + rng.randrange(-2, 3)))),
        lambda: chr(rng.randrange(0xE000, 0xF900)),
        lambda: rng.choice(added),
        lambda: mutilated(rng, rng.choice(added)),
        lambda: rng.choice(["ab", " ", "\n", "=", "ha", "字", "\u3000", "9", "\u0301"]) * rng.randrange(2, 90),
    ]
    parts = []
    for _ in range(rng.randrange(1, 12)):
        generate = rng.choice(generators)
        parts += [generate() for _ in range(rng.choice([1, 1, 2, 3, 8]))]
    text = "".join(parts)
    return "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)


def mutilated(rng, token):
    """An added token with one character dropped, doubled or replaced."""
    at = rng.randrange(len(token))
    return token[:at] + rng.choice(["", token[at] * 2, "|", " ", "▁", "｜"]) + token[at + 1:]


def write(tokenizer, texts):
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
        print(json.dumps([text, encoding.ids], separators=(",", ":")))


def main():
    command, path, *arguments = sys.argv[1:]
    tokenizer = Tokenizer.from_file(path)
    if command == "ids":
        count, seed = map(int, arguments)
        rng = random.Random(seed)
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        for start in range(0, count, 1000):
            write(tokenizer, [random_text(rng, added) for _ in range(min(1000, count - start))])
    elif command == "encode":
        write(tokenizer, [json.loads(line) for line in sys.stdin])
    else:
        raise SystemExit(f"unknown command {command}")


if __name__ == "__main__":
    main()
