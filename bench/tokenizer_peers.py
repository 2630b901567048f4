"""Texts and rivals of bench/tokenizer.ts: Hugging Face `tokenizers` and `tiktoken`, one thread each.

    python tokenizer_peers.py texts BYTES              JSON: `code` and `prose`, each as many bytes at least
    python tokenizer_peers.py serve TOKENIZER_JSON     answers one JSON line for each JSON line of:

    {"texts": PATH}                     reads a JSON list of texts                          -> their bytes
    {"ids": RIVAL, "into": PATH}        u32: of each text the number of ids, then the ids   -> texts
    {"time": RIVAL}                     encodes all texts                                   -> CPU seconds

`tiktoken` has to be told what tokenizer.json says: the vocabulary as ranks, and the splits of the DeepSeek-V3
generation as one pattern. It is not there for other tokenizers.
"""

import array
import ast
import glob
import json
import os
import site
import sys
import sysconfig
import time
import warnings

# One thread; read by the library when it is imported.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

CJK = "一-龥぀-ゟ゠-ヿ"
LETTER = rf"[\p{{L}}\p{{M}}--[{CJK}]]"
SIGN = rf"[\p{{P}}\p{{S}}--[{CJK}]]"
OTHER = r"[^\s\p{L}\p{M}\p{N}\p{P}\p{S}]"
# tokenizer.json splits in three stages: numbers, then ideographs and kana, then the rest, where each stage sees
# only what lies between the matches of those before. In one pattern the later stages must not reach into what
# belongs to the earlier, and a piece's end counts as the text's; tiktoken drops what nothing matches.
V3_PATTERN = "|".join([
    r"\p{N}{1,3}",
    rf"[{CJK}]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}{CJK}]?{LETTER}+",
    rf" ?{SIGN}+[\r\n]*",
    r"\s*[\r\n]+",
    rf"\s+(?![^\s\p{{N}}{CJK}])",
    r"\s+",
    rf"(?:{OTHER}(?!{LETTER}))+",
])


def read(path):
    with open(path, encoding="utf-8", errors="ignore") as file:
        return file.read()


def python_files():
    roots = [sysconfig.get_path("stdlib"), *site.getsitepackages()]
    paths = {path for root in roots for path in glob.glob(f"{root}/**/*.py", recursive=True)}
    return sorted(path for path in paths if "/test" not in path)


def docstrings(paths):
    warnings.simplefilter("ignore")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    seen = set()
    for path in paths:
        try:
            nodes = list(ast.walk(ast.parse(read(path))))
        except (SyntaxError, ValueError):
            continue
        for text in (ast.get_docstring(node) for node in nodes if isinstance(node, documented)):
            if text and len(text) > 80 and text not in seen:
                seen.add(text)
                yield text + "\n"


def prose():
    import pydoc_data.topics

    yield from pydoc_data.topics.topics.values()
    for path in sorted(glob.glob("/usr/share/common-licenses/*")):
        if not os.path.islink(path):
            yield read(path)
    # From the last files on: the first are the code.
    yield from docstrings(reversed(python_files()))


def first(texts, size):
    """The first texts that have as many bytes together."""
    taken = []
    for text in texts:
        if size <= 0:
            break
        taken.append(text)
        size -= len(text.encode())
    return "".join(taken)


def tiktoken_encoding(file):
    import tiktoken

    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    bytes_of = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    bytes_of |= {chr(0x100 + index): byte for index, byte in enumerate(others)}
    added = {token["content"] for token in file["added_tokens"]}
    vocabulary = file["model"]["vocab"].items()
    ranks = {bytes(bytes_of[c] for c in token): id for token, id in vocabulary if token not in added}
    return tiktoken.Encoding("v3", pat_str=V3_PATTERN, mergeable_ranks=ranks, special_tokens={})


def rivals_of(path):
    """By name, what encodes texts."""
    from tokenizers import Tokenizer

    with open(path, encoding="utf-8") as file:
        described = json.load(file)
    tokenizer = Tokenizer.from_file(path)
    rivals = {
        # The faster of its two ways: it leaves out the offsets.
        "huggingFace": lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
    }
    stages = described["pre_tokenizer"]["pretokenizers"]
    if any(stage.get("pattern") == {"Regex": r"\p{N}{1,3}"} for stage in stages):
        encoding = tiktoken_encoding(described)
        rivals["tiktoken"] = lambda texts: [encoding.encode_ordinary(text) for text in texts]
    return rivals


def serve(path):
    rivals = rivals_of(path)
    texts = []
    print(json.dumps(list(rivals)), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "texts" in request:
            with open(request["texts"], encoding="utf-8") as file:
                texts = json.load(file)
            answer = sum(len(text.encode()) for text in texts)
        elif "ids" in request:
            numbers = array.array("I")
            for found in rivals[request["ids"]](texts):
                ids = getattr(found, "ids", found)
                numbers.append(len(ids))
                numbers.extend(ids)
            with open(request["into"], "wb") as file:
                numbers.tofile(file)
            answer = len(texts)
        else:
            start = time.process_time()
            rivals[request["time"]](texts)
            answer = time.process_time() - start
        print(json.dumps(answer), flush=True)


def main():
    command, argument = sys.argv[1:]
    if command == "texts":
        size = int(argument)
        code = first(map(read, python_files()), size)
        print(json.dumps({"code": code, "prose": first(prose(), size)}))
    else:
        serve(argument)


if __name__ == "__main__":
    main()
