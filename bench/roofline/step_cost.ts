/**
 * What a step costs on one of several ranks at least: bytes, operations and bytes between ranks, op by op.
 *
 * A model and no measurement: every op is charged the larger of its bytes at full bandwidth and its
 * operations at full rate, ops one after another, collectives at the full rate of the link, launches and
 * waits at nothing. Whoever overlaps two halves of a batch hides collectives behind the other ops.
 * @module
 */
import type { Device } from "./devices.ts";

/** The fields of a config.json that decide the cost. */
export interface ModelConfig {
  num_hidden_layers: number;
  first_k_dense_replace: number;
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  moe_intermediate_size: number;
  n_routed_experts: number;
  n_shared_experts: number;
  num_experts_per_tok: number;
  num_attention_heads: number;
  q_lora_rank?: number | null;
  kv_lora_rank: number;
  qk_nope_head_dim: number;
  qk_rope_head_dim: number;
  v_head_dim: number;
}

/** How weights are stored: int4 in blocks of 32 with an f16 scale, as packages have it. */
export type WeightStorage = "bf16" | "fp8" | "int4";
const weightBytes: Readonly<Record<WeightStorage, number>> = {
  bf16: 2,
  fp8: 1,
  int4: 0.5 + 2 / 32,
};

/** How the latent cache is stored: fp8 as FlashMLA's rows, 6bit as the paper's (section 3.2.3). */
export type CacheStorage = "bf16" | "fp8" | "6bit";
const rowBytes: Readonly<Record<CacheStorage, (latent: number, rotary: number) => number>> = {
  bf16: (latent, rotary) => 2 * (latent + rotary),
  fp8: (latent, rotary) => latent + 4 * latent / 128 + 2 * rotary, // f32 scales, rotary part in bf16
  "6bit": (latent, rotary) => 0.75 * (latent + rotary),
};

/**
 * How a model lies on its ranks: `tensor` divides heads, experts and rows of every layer, and every rank
 * keeps the whole latent cache; `data` divides sequences in attention, whose weights every rank keeps
 * whole, and gathers tokens for experts, dense layers and the head, which are divided.
 */
export type Layout = "tensor" | "data";

/** What is computed. */
export interface Setting {
  /** GPUs. */
  ranks: number;
  /** Division of attention. */
  layout: Layout;
  /** Storage of weights. */
  weights: WeightStorage;
  /** Storage of the latent cache. */
  cache: CacheStorage;
  /** New tokens of the whole step, over all ranks. */
  tokens: number;
  /** Sequences of the whole step; `tokens` of them are decoding where both are equal. */
  sequences: number;
  /** Cached tokens that each new token attends to, on average. */
  context: number;
  /** Rows of logits. */
  logitRows: number;
}

/** One kind of op on one rank, summed over the layers. */
export interface OpCost {
  /** The op. */
  op: string;
  /** Bytes read from memory: weights and cache. */
  bytes: number;
  /** Operations, a multiply-add being two. */
  operations: number;
  /** Bytes sent to other ranks. */
  sent: number;
}

/**
 * Parameters of the model.
 *
 * @param c The model.
 * @returns Counts by what divides them: `attentionShared` is kept whole by every rank of either layout.
 */
export function parameters(c: ModelConfig): {
  total: number;
  attentionShared: number;
  attentionByHead: number;
  router: number;
  expert: number;
  experts: number;
  sharedExperts: number;
  dense: number;
  head: number;
  embedding: number;
} {
  const D = c.hidden_size;
  const query = c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  const latent = c.kv_lora_rank + c.qk_rope_head_dim;
  const rank = c.q_lora_rank ?? 0;
  const sparse = c.num_hidden_layers - c.first_k_dense_replace;
  const norms = c.num_hidden_layers * (2 * D + c.kv_lora_rank + rank) + D;
  const attentionShared = c.num_hidden_layers * (D * latent + D * rank);
  const attentionByHead = c.num_hidden_layers * (
    (rank || D) * query +
    c.num_attention_heads * c.kv_lora_rank * (c.qk_nope_head_dim + c.v_head_dim) +
    c.num_attention_heads * c.v_head_dim * D
  );
  const expert = 3 * D * c.moe_intermediate_size;
  const router = sparse * D * c.n_routed_experts;
  const experts = sparse * c.n_routed_experts * expert;
  const sharedExperts = sparse * c.n_shared_experts * expert;
  const dense = c.first_k_dense_replace * 3 * D * c.intermediate_size;
  const head = D * c.vocab_size;
  const total = attentionShared + attentionByHead + router + experts + sharedExperts + dense +
    2 * head + norms;
  return {
    total,
    attentionShared,
    attentionByHead,
    router,
    expert,
    experts,
    sharedExperts,
    dense,
    head,
    embedding: head,
  };
}

/**
 * Bytes of weights on each rank.
 *
 * @param c The model.
 * @param setting Its division and storage; embeddings, head and router are bf16.
 * @returns Bytes.
 */
export function weightBytesPerRank(
  c: ModelConfig,
  { ranks, layout, weights }: Pick<Setting, "ranks" | "layout" | "weights">,
): number {
  const p = parameters(c);
  const whole = p.attentionShared + (layout === "data" ? p.attentionByHead : 0);
  const divided = p.experts + p.sharedExperts + p.dense +
    (layout === "tensor" ? p.attentionByHead : 0);
  return weightBytes[weights] * (whole + divided / ranks) +
    2 * (p.router + (p.head + p.embedding) / ranks);
}

/**
 * Cache bytes of a token, over all layers.
 *
 * @param c The model.
 * @param cache The storage.
 * @returns Bytes.
 */
export function cacheBytesPerToken(c: ModelConfig, cache: CacheStorage): number {
  return c.num_hidden_layers * rowBytes[cache](c.kv_lora_rank, c.qk_rope_head_dim);
}

/**
 * Sequences that fit, their caches beside the weights.
 *
 * @param c The model.
 * @param device The GPU.
 * @param setting Its division.
 * @param use Share of the memory that is used.
 * @returns Whole sequences of `context` tokens over all ranks; 0 where not even the weights fit.
 */
export function sequencesThatFit(
  c: ModelConfig,
  device: Device,
  setting: Pick<Setting, "ranks" | "layout" | "weights" | "cache" | "context">,
  use = 0.9,
): number {
  const free = use * device.memory - weightBytesPerRank(c, setting);
  const perRank = Math.max(0, free) / (cacheBytesPerToken(c, setting.cache) * setting.context);
  return Math.floor(perRank) * (setting.layout === "data" ? setting.ranks : 1);
}

/**
 * The cost of one step on one rank.
 *
 * @param c The model.
 * @param s What is computed.
 * @returns Ops in the order of a layer.
 */
export function stepCost(c: ModelConfig, s: Setting): OpCost[] {
  const p = parameters(c);
  const stored = weightBytes[s.weights];
  const tensor = s.layout === "tensor";
  // Of attention a rank has a share of the heads, or a share of the tokens.
  const tokens = tensor ? s.tokens : s.tokens / s.ranks;
  const sequences = tensor ? s.sequences : s.sequences / s.ranks;
  const heads = tensor ? 1 / s.ranks : 1;
  const headsHere = c.num_attention_heads * heads;
  const perKey = 2 * headsHere * (2 * c.kv_lora_rank + c.qk_rope_head_dim);
  const linear = (op: string, weights: number, rows: number, bytes = stored): OpCost => ({
    op,
    bytes: bytes * weights,
    operations: 2 * weights * rows,
    sent: 0,
  });
  const held = p.experts / s.ranks;
  const touched = 1 - (1 - c.num_experts_per_tok / c.n_routed_experts) ** s.tokens;
  const chosen = s.tokens * c.num_experts_per_tok / c.n_routed_experts; // tokens of one expert
  // bf16 rows of all tokens, but for those that are here already.
  const rows = 2 * c.hidden_size * s.tokens * (s.ranks - 1) / s.ranks;
  return [
    linear("q_a, kv_a", p.attentionShared, tokens),
    linear("q_b, absorbed kv_b, o", p.attentionByHead * heads, tokens),
    {
      op: "latent attention",
      bytes: cacheBytesPerToken(c, s.cache) * s.context * sequences,
      operations: c.num_hidden_layers * perKey * s.context * tokens,
      sent: 0,
    },
    linear("router", p.router, tokens, 2),
    {
      op: "routed experts",
      bytes: stored * held * touched,
      operations: 2 * held * chosen,
      sent: 0,
    },
    linear("shared experts, dense layers", (p.sharedExperts + p.dense) / s.ranks, s.tokens),
    linear("head", p.head / s.ranks, s.logitRows, 2),
    {
      // tensor: AllReduce after attention and after experts, each a ReduceScatter and an AllGather.
      // data: AllGather before experts, ReduceScatter after.
      op: "collectives",
      bytes: 0,
      operations: 0,
      sent: c.num_hidden_layers * rows * (tensor ? 4 : 2),
    },
  ];
}

/**
 * The least time of an op.
 *
 * @param cost The op.
 * @param device The GPU.
 * @param fp8 Whether its operations are fp8.
 * @returns Seconds.
 */
export function seconds(cost: OpCost, device: Device, fp8: boolean): number {
  const rate = fp8 && device.fp8 > 0 && cost.op !== "latent attention" ? device.fp8 : device.bf16;
  return Math.max(cost.bytes / device.bandwidth, cost.operations / rate, cost.sent / device.link);
}

/**
 * The time of a step.
 *
 * @param c The model.
 * @param device The GPU.
 * @param s What is computed.
 * @returns Seconds with the collectives one after another with the other ops, and at best beside them.
 */
export function stepSeconds(
  c: ModelConfig,
  device: Device,
  s: Setting,
): { inTurn: number; overlapped: number } {
  let ops = 0;
  let collectives = 0;
  for (const op of stepCost(c, s)) {
    const time = seconds(op, device, s.weights === "fp8");
    if (op.sent > 0) collectives += time;
    else ops += time;
  }
  return { inTurn: ops + collectives, overlapped: Math.max(ops, collectives) };
}
