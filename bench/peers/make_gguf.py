"""Writes a GGUF of random weights in the shape of a DeepSeek-V2 config.json, for timing llama.cpp.

    PYTHONPATH=<folder>/python python3 bench/peers/make_gguf.py config.json out.gguf [--weights q4_0] \
        [--head q8_0]

The format of the head is chosen by itself: Q8_0 has as many bits as the head of our int4 packages, Q4_0
reads fewer bytes. Blocks come from a pool, so that 9 GB are written at the disk's speed.
"""

import argparse
import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

BLOCK = 32
POOL_BLOCKS = 1 << 21
# Standard deviation of uniform levels times the scale gives 1 / sqrt(columns).
LEVEL_SPREAD = {Type.Q4_0: 4.6, Type.Q8_0: 73.9}
BLOCK_BYTES = {Type.Q4_0: 18, Type.Q8_0: 34}

# (name, shape with the row's elements last, type)
Tensor = tuple[str, tuple[int, ...], Type]


def tensors_of(config: dict, weights: Type, head: Type) -> list[Tensor]:
    """Every tensor of the model in llama.cpp's names."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
    shared = config["n_shared_experts"] * width
    query_rank = config.get("q_lora_rank") or 0
    tensors: list[Tensor] = []

    def matrix(name: str, *shape: int, kind: Type = weights) -> None:
        tensors.append((name + ".weight", shape, kind))

    def floats(name: str, *shape: int) -> None:
        matrix(name, *shape, kind=Type.F32)

    matrix("token_embd", config["vocab_size"], hidden)
    matrix("output", config["vocab_size"], hidden, kind=head)
    floats("output_norm", hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"blk.{layer}."
        floats(at + "attn_norm", hidden)
        floats(at + "attn_kv_a_norm", rank)
        if query_rank:
            matrix(at + "attn_q_a", query_rank, hidden)
            floats(at + "attn_q_a_norm", query_rank)
            matrix(at + "attn_q_b", heads * (nope + rope), query_rank)
        else:
            matrix(at + "attn_q", heads * (nope + rope), hidden)
        matrix(at + "attn_kv_a_mqa", rank + rope, hidden)
        matrix(at + "attn_k_b", heads, rank, nope)
        matrix(at + "attn_v_b", heads, value, rank)
        matrix(at + "attn_output", hidden, heads * value)
        floats(at + "ffn_norm", hidden)
        if layer < config["first_k_dense_replace"]:
            inner = config["intermediate_size"]
            matrix(at + "ffn_gate", inner, hidden)
            matrix(at + "ffn_up", inner, hidden)
            matrix(at + "ffn_down", hidden, inner)
        else:
            floats(at + "ffn_gate_inp", experts, hidden)
            matrix(at + "ffn_gate_exps", experts, width, hidden)
            matrix(at + "ffn_up_exps", experts, width, hidden)
            matrix(at + "ffn_down_exps", experts, hidden, width)
            matrix(at + "ffn_gate_shexp", shared, hidden)
            matrix(at + "ffn_up_shexp", shared, hidden)
            matrix(at + "ffn_down_shexp", hidden, shared)
    return tensors


def add_hyperparameters(writer: gguf.GGUFWriter, config: dict, weights: Type) -> None:
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_q_lora_rank(config.get("q_lora_rank") or 0)
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_weights_scale(float(config["routed_scaling_factor"]))
    writer.add_expert_weights_norm(False)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    writer.add_rope_dimension_count(rope)
    scaling = config["rope_scaling"]
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(scaling["factor"])
    writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{weights.name}"])


def add_blank_tokenizer(writer: gguf.GGUFWriter, vocab: int) -> None:
    """llama.cpp wants a vocabulary: ASCII characters, and words that no text has. What is generated at random
    stays valid UTF-8, which wllama's JSON needs."""
    ascii_bytes = 128
    # GPT-2's alphabet: bytes that do not print stand at U+0100 and on.
    unprintable = [byte for byte in range(ascii_bytes) if not 33 <= byte < 127]
    letters = [chr(256 + unprintable.index(i) if i in unprintable else i) for i in range(ascii_bytes)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-llm")
    writer.add_token_list(letters + [f"token{i}" for i in range(ascii_bytes, vocab)])
    writer.add_token_types([gguf.TokenType.NORMAL] * (vocab - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(vocab - 2)
    writer.add_eos_token_id(vocab - 1)


class RandomBlocks:
    """Quantized blocks cut from one pool, at another place for each tensor."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.pools: dict[Type, np.ndarray] = {}

    def matrix(self, shape: tuple[int, ...], kind: Type) -> np.ndarray:
        size = BLOCK_BYTES[kind]
        if kind not in self.pools:
            pool = self.random.integers(0, 256, (2 * POOL_BLOCKS, size), dtype=np.uint8)
            self.pools[kind] = pool
        pool = self.pools[kind]
        count = int(np.prod(shape)) // BLOCK
        blocks = np.empty((count, size), dtype=np.uint8)
        for begin in range(0, count, POOL_BLOCKS):
            end = min(begin + POOL_BLOCKS, count)
            place = int(self.random.integers(0, POOL_BLOCKS))
            blocks[begin:end] = pool[place : place + end - begin]
        scale = np.float16(1 / (LEVEL_SPREAD[kind] * np.sqrt(shape[-1])))
        blocks[:, :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
        return blocks.reshape(-1)

    def floats(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.ones(shape, dtype=np.float32)
        return (self.random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("output")
    parser.add_argument("--weights", choices=["q4_0", "q8_0"], default="q4_0")
    parser.add_argument("--head", choices=["q4_0", "q8_0"], default="q8_0")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with open(options.config, encoding="utf-8") as file:
        config = json.load(file)
    weights, head = Type[options.weights.upper()], Type[options.head.upper()]
    tensors = tensors_of(config, weights, head)
    writer = gguf.GGUFWriter(options.output, "deepseek2")
    add_hyperparameters(writer, config, weights)
    add_blank_tokenizer(writer, config["vocab_size"])
    for name, shape, kind in tensors:
        if kind == Type.F32:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
            continue
        if shape[-1] % BLOCK:
            raise SystemExit(f"Cannot write {name}: rows of {shape[-1]}, needed are multiples of {BLOCK}.")
        stored = (*shape[:-1], shape[-1] // BLOCK * BLOCK_BYTES[kind])
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    blocks = RandomBlocks(options.seed)
    for _, shape, kind in tensors:
        writer.write_tensor_data(blocks.floats(shape) if kind == Type.F32 else blocks.matrix(shape, kind))
    writer.close()


if __name__ == "__main__":
    main()
