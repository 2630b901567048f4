"""Writes the op cases: inputs and float64 results of the ops of domain `hybridseek`, one safetensors file each.

    python make_op_cases.py        needs numpy and safetensors; the files are committed

Rust, TypeScript and Python tests read the same files. A file holds `input.<name>` and `output.<name>` tensors, named as
in the op's signature; its metadata has `op`, `overload` and `attributes` (JSON). Expected results are computed here
from the papers' formulas in float64, attention in the expanded form, whatever the form of the kernels.

What must not be read is poisoned: cache rows nobody wrote are NaN, table entries that a context does not reach are a
huge number. Sizes are odd where the op allows it.
"""
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent
HUGE = 2_000_000_000


def write(name, op, overload, attributes, inputs, outputs):
    tensors = {f"input.{key}": np.ascontiguousarray(value) for key, value in inputs.items()}
    tensors |= {f"output.{key}": np.ascontiguousarray(value) for key, value in outputs.items()}
    metadata = {"op": op, "overload": overload, "attributes": json.dumps(attributes)}
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata)
    print(name, {key: value.shape for key, value in outputs.items()})


class Batch:
    """A ragged step over a shuffled, poisoned pool. `parts` = [(context before, new tokens), ...]"""

    def __init__(self, random, parts, block_size):
        self.parts, self.block_size = parts, block_size
        needed = [-(-(past + new) // block_size) for past, new in parts]
        self.blocks = sum(needed) + 3
        free = list(random.permutation(np.arange(1, self.blocks)))  # block 0 is scratch
        self.tables = [[int(free.pop()) for _ in range(count)] for count in needed]
        width = max(needed) + 1
        self.block_tables = np.full((len(parts), width), HUGE, "i4")
        for row, table in zip(self.block_tables, self.tables):
            row[: len(table)] = table
        self.query_starts = np.cumsum([0] + [new for _, new in parts]).astype("i4")
        self.context_lengths = np.array([past + new for past, new in parts], "i4")
        self.slots = np.array([self.slot(b, past + i) for b, (past, new) in enumerate(parts) for i in range(new)], "i4")
        self.positions = np.array([past + i for past, new in parts for i in range(new)], "i4")
        self.tokens = len(self.slots)

    def slot(self, sequence, position):
        return self.tables[sequence][position // self.block_size] * self.block_size + position % self.block_size

    def inputs(self):
        names = ("slots", "query_starts", "context_lengths", "block_tables")
        return {name: getattr(self, name) for name in names}

    def rotary(self, width):
        """cos and sin [T, width/2] as float32, which is what the op is given."""
        frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
        angles = np.outer(self.positions, frequencies)
        return np.cos(angles).astype("f4"), np.sin(angles).astype("f4")

    def fill(self, cache, rows_of):
        """Writes the past rows of every sequence into a poisoned cache [blocks, P, heads, width]."""
        flat = cache.reshape(self.blocks * self.block_size, *cache.shape[2:])
        for b, (past, _) in enumerate(self.parts):
            for position in range(past):
                flat[self.slot(b, position)] = rows_of()

    def attend(self, query, key_rows, value_rows, scale):
        """Softmax attention in float64. query [T, H, W]; key_rows(b), value_rows(b) [S, H, .] after the append."""
        result = []
        for b, (past, new) in enumerate(self.parts):
            keys, values = key_rows(b), value_rows(b)
            for i in range(new):
                seen = past + i + 1
                q = query[self.query_starts[b] + i]
                scores = np.einsum("hw,shw->hs", q, keys[:seen]) * scale
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                result.append(np.einsum("hs,shv->hv", weights, values[:seen]).reshape(-1))
        return np.array(result)

    def rows(self, cache, sequence):
        flat = cache.reshape(self.blocks * self.block_size, *cache.shape[2:])
        count = self.context_lengths[sequence]
        return np.stack([flat[self.slot(sequence, position)] for position in range(count)])


def rotate(x, cos, sin, interleaved):
    """x [T, heads, W] in float64, cos and sin [T, W/2]."""
    cos, sin = cos.astype("f8")[:, None], sin.astype("f8")[:, None]
    half = x.shape[-1] // 2
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    a, b = first * cos - second * sin, second * cos + first * sin
    return np.stack([a, b], -1).reshape(x.shape) if interleaved else np.concatenate([a, b], -1)


def normal(random, *shape, scale=1.0):
    return (random.standard_normal(shape) * scale).astype("f4")


def latent_attention(name, seed, parts, block_size, heads, nope, rope, rank, value, half=False, epsilon=1e-6):
    random = np.random.default_rng(seed)
    batch = Batch(random, parts, block_size)
    cos, sin = batch.rotary(rope)
    query = normal(random, batch.tokens, heads * (nope + rope))
    latent = normal(random, batch.tokens, rank + rope, scale=2)
    norm_weight = 1 + normal(random, rank, scale=0.1)
    kv_b = normal(random, heads, nope + value, rank, scale=rank**-0.5)
    if half:
        kv_b = kv_b.astype("f2")
    cache = np.full((batch.blocks, block_size, 1, rank + rope), np.nan, "f4")
    batch.fill(cache, lambda: normal(random, 1, rank + rope))
    scale = float(np.float32(1.3 * (nope + rope) ** -0.5))

    after = cache.astype("f8").copy()
    compressed = latent[:, :rank].astype("f8")
    normed = compressed / np.sqrt((compressed**2).mean(-1, keepdims=True) + epsilon) * norm_weight
    key_rope = rotate(latent[:, None, rank:].astype("f8"), cos, sin, True)[:, 0]
    flat = after.reshape(-1, rank + rope)
    flat[batch.slots] = np.concatenate([normed, key_rope], -1)

    split = query.astype("f8").reshape(batch.tokens, heads, nope + rope)
    full_query = np.concatenate([split[..., :nope], rotate(split[..., nope:], cos, sin, True)], -1)
    up = kv_b.astype("f8")

    def expanded(b):
        rows = batch.rows(after, b)[:, 0]
        keys = np.einsum("hnc,sc->shn", up[:, :nope], rows[:, :rank])
        rotary = np.repeat(rows[:, None, rank:], heads, 1)
        return np.concatenate([keys, rotary], -1), np.einsum("hvc,sc->shv", up[:, nope:], rows[:, :rank])

    y = batch.attend(full_query, lambda b: expanded(b)[0], lambda b: expanded(b)[1], scale)
    inputs = dict(query=query, latent=latent, norm_weight=norm_weight, kv_b=kv_b, cos=cos, sin=sin)
    write(name, "LatentAttention", "", dict(scale=scale, epsilon=epsilon), inputs | batch.inputs() | dict(cache=cache),
          dict(y=y, cache_out=after))


def paged_attention(name, seed, parts, block_size, heads, groups, width, value, interleaved=0):
    random = np.random.default_rng(seed)
    batch = Batch(random, parts, block_size)
    cos, sin = batch.rotary(width)
    query = normal(random, batch.tokens, heads * width)
    key = normal(random, batch.tokens, groups * width)
    values = normal(random, batch.tokens, groups * value)
    key_cache = np.full((batch.blocks, block_size, groups, width), np.nan, "f4")
    value_cache = np.full((batch.blocks, block_size, groups, value), np.nan, "f4")
    batch.fill(key_cache, lambda: normal(random, groups, width))
    batch.fill(value_cache, lambda: normal(random, groups, value))
    scale = float(np.float32(width**-0.5))

    keys_after, values_after = key_cache.astype("f8").copy(), value_cache.astype("f8").copy()
    rotated = rotate(key.astype("f8").reshape(-1, groups, width), cos, sin, interleaved)
    keys_after.reshape(-1, groups, width)[batch.slots] = rotated
    values_after.reshape(-1, groups, value)[batch.slots] = values.reshape(-1, groups, value)
    full_query = rotate(query.astype("f8").reshape(-1, heads, width), cos, sin, interleaved)
    repeat = heads // groups
    y = batch.attend(full_query, lambda b: np.repeat(batch.rows(keys_after, b), repeat, 1),
                     lambda b: np.repeat(batch.rows(values_after, b), repeat, 1), scale)
    inputs = dict(query=query, key=key, value=values, cos=cos, sin=sin) | batch.inputs()
    write(name, "PagedAttention", "", dict(scale=scale, rotary_interleaved=interleaved),
          inputs | dict(key_cache=key_cache, value_cache=value_cache),
          dict(y=y, key_cache_out=keys_after, value_cache_out=values_after))


def quantize(matrix, bits):
    """The file's int8 and int4 (README of the export tools): packed u8 [..., columns], f16 scales, restored f64."""
    *leading, columns = matrix.shape
    blocks = -(-columns // 32)
    padded = np.zeros((*leading, blocks * 32), "f8")
    padded[..., :columns] = matrix
    padded = padded.reshape(*leading, blocks, 32)
    extreme = np.take_along_axis(padded, np.abs(padded).argmax(-1)[..., None], -1)
    scales = (np.abs(extreme) / 127 if bits == 8 else extreme / -8).astype("f2")
    zero, most = (128, 255) if bits == 8 else (8, 15)
    divisor = np.where(scales == 0, 1, scales).astype("f8")
    levels = np.clip(np.round(padded / divisor) + zero, 0, most)
    restored = ((levels - zero) * scales.astype("f8")).reshape(*leading, -1)[..., :columns]
    levels = levels.astype("u1").reshape(*leading, -1)
    packed = levels if bits == 8 else levels[..., 0::2] | (levels[..., 1::2] << 4)
    return packed, scales[..., 0], restored


def sparse_experts(name, seed, tokens, hidden, width, experts, k, groups=1, top_groups=1, normalize=0, scaling=1.0,
                   first=0, held=None, weights="f32", ties=False):
    random = np.random.default_rng(seed)
    held = held or experts - first
    x = normal(random, tokens, hidden)
    router = normal(random, experts, hidden, scale=2 * hidden**-0.5)
    if ties:
        router[1::2] = router[0::2]  # every odd expert scores exactly as the even one before it
    gate_up = normal(random, held, 2 * width, hidden, scale=hidden**-0.5)
    down = normal(random, held, hidden, width, scale=width**-0.5)
    inputs, overload = dict(x=x, router=router), "float"
    if weights in ("int8", "int4"):
        overload = weights
        for key, matrix in (("gate_up", gate_up), ("down", down)):
            packed, scales, restored = quantize(matrix, 8 if weights == "int8" else 4)
            inputs |= {key: packed, f"{key}_scales": scales}
            if key == "gate_up":
                gate_up = restored
            else:
                down = restored
    else:
        gate_up, down = (matrix.astype({"f32": "f4", "f16": "f2"}[weights]) for matrix in (gate_up, down))
        inputs |= dict(gate_up=gate_up, down=down)

    logits = x.astype("f8") @ router.astype("f8").T
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    y = np.zeros((tokens, hidden))
    chosen, chosen_weights = np.zeros((tokens, k), "i4"), np.zeros((tokens, k))
    for t in range(tokens):
        best = scores[t].reshape(groups, -1).max(-1)
        kept = sorted(range(groups), key=lambda g: (-best[g], g))[:top_groups]
        allowed = [e for e in range(experts) if e // (experts // groups) in kept]
        chosen[t] = sorted(allowed, key=lambda e: (-scores[t, e], e))[:k]
        picked = scores[t, chosen[t]]
        chosen_weights[t] = picked / (picked.sum() if normalize else 1) * scaling
        for e, weight in zip(chosen[t] - first, chosen_weights[t]):
            if 0 <= e < held:
                gate, up = (gate_up[e, parity::2].astype("f8") @ x[t].astype("f8") for parity in (0, 1))
                y[t] += weight * (down[e].astype("f8") @ (gate / (1 + np.exp(-gate)) * up))
    attributes = dict(k=k, groups=groups, top_groups=top_groups, normalize=normalize, scaling=scaling, first_expert=first)
    write(name, "SparseExperts", overload, attributes, inputs, dict(y=y, experts=chosen, weights=chosen_weights))


if __name__ == "__main__":
    for old in FOLDER.glob("*.safetensors"):
        old.unlink()
    latent = dict(heads=3, nope=5, rope=6, rank=7, value=9)
    latent_attention("latent_attention-first_token", 1, [(0, 1)], 4, **latent)
    latent_attention("latent_attention-ragged_odd", 2, [(5, 1), (0, 7), (3, 0), (10, 4), (0, 1)], 4, **latent)
    wide = dict(heads=4, nope=32, rope=16, rank=64, value=32)
    latent_attention("latent_attention-decode", 3, [(70, 1), (15, 1), (16, 1), (129, 1)], 16, **wide)
    latent_attention("latent_attention-prefill", 4, [(0, 33), (17, 18)], 16, **wide)
    latent_attention("latent_attention-half", 5, [(0, 9), (20, 1)], 16, half=True, **wide)
    latent_attention("latent_attention-one_head", 6, [(2, 3)], 1, heads=1, nope=1, rope=2, rank=1, value=1, epsilon=0.5)
    paged_attention("paged_attention-first_token", 11, [(0, 1)], 4, heads=2, groups=2, width=6, value=6)
    paged_attention("paged_attention-ragged_odd", 12, [(5, 1), (0, 7), (3, 0), (10, 4)], 4, heads=6, groups=2, width=10, value=7)
    paged_attention("paged_attention-interleaved", 13, [(0, 5), (9, 2)], 8, heads=5, groups=1, width=8, value=12, interleaved=1)
    paged_attention("paged_attention-multi_head", 14, [(40, 1), (0, 20)], 16, heads=4, groups=4, width=32, value=32)
    small = dict(tokens=11, hidden=20, width=12, experts=8, k=3)
    sparse_experts("sparse_experts-greedy", 21, **small)
    sparse_experts("sparse_experts-groups", 22, **small | dict(groups=4, top_groups=2), scaling=16.0)
    sparse_experts("sparse_experts-normalized", 23, **small, normalize=1, scaling=2.5)
    sparse_experts("sparse_experts-ties", 24, **small | dict(groups=4, top_groups=3), ties=True)
    sparse_experts("sparse_experts-held", 25, **small, first=3, held=4)
    sparse_experts("sparse_experts-one", 26, tokens=1, hidden=3, width=1, experts=1, k=1)
    sparse_experts("sparse_experts-half", 27, **small, weights="f16")
    blocks = dict(tokens=9, hidden=72, width=40, experts=6, k=2)
    sparse_experts("sparse_experts-int8", 28, **blocks, weights="int8")
    sparse_experts("sparse_experts-int4", 29, **blocks, weights="int4")
    sparse_experts("sparse_experts-int4_held", 30, **blocks, weights="int4", first=2, held=3)
