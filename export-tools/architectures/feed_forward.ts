import type { Value } from "../../src/onnx/graph_builder.ts";
import { InvalidFileError } from "../../src/errors.ts";
import { type ExpertFormat, sparseExperts, sparseExpertsFunction } from "../ops/sparse_experts.ts";
import { f32 } from "../quantization/f32.ts";
import type { Rows } from "../checkpoint.ts";
import { interleaveRows, stackRows } from "../row_sources.ts";
import { largestTensorBytes } from "../weight_store.ts";
import type { DecoderBuilder } from "./decoder_builder.ts";
import type { LayerPart } from "./decoder_layers.ts";

/** The dense half of a layer, of width `intermediate_size`. @param b Takes the nodes. @returns It. */
export function denseFeedForward(b: DecoderBuilder): LayerPart {
  const hidden = b.config.integer("hidden_size");
  const intermediate = b.config.integer("intermediate_size");
  return (x, layer, prefix) => b.mlp(x, prefix, hidden, intermediate, `layers.${layer}.fed`);
}

/** How a family's router weighs the chosen experts. */
export interface Routing {
  /** Groups of the group-limited choice; 1 for the greedy one. */
  groups: number;
  /** How many groups a token may use. */
  topGroups: number;
  /** Factor of the weights where they are not normalised. */
  scaling: number;
}

/**
 * DeepSeekMoE's half of a layer: routed and shared experts, dense in the first layers (DeepSeekMoE,
 * arXiv 2401.06066, section 3).
 *
 * @param b Takes the nodes.
 * @param routing The family's way of weighing.
 * @returns The feed-forward half of a layer.
 * @throws {InvalidFileError} If the config's numbers do not fit together.
 */
export function mixtureFeedForward(b: DecoderBuilder, routing: Routing): LayerPart {
  const { config } = b;
  config.requireOneOf("scoring_func", "softmax");
  const hidden = config.integer("hidden_size");
  const width = config.integer("moe_intermediate_size");
  const count = config.integer("n_routed_experts");
  const k = config.integer("num_experts_per_tok");
  const shared = config.integer("n_shared_experts", 0, 0);
  const firstSparse = config.integer("first_k_dense_replace", 0, 0);
  const frequency = config.integer("moe_layer_freq", 1);
  const normalize = config.boolean("norm_topk_prob", false) && k > 1;
  const { groups, topGroups } = routing;
  if (count % groups !== 0 || topGroups > groups || k > topGroups * (count / groups)) {
    throw new InvalidFileError(
      config.path,
      `Cannot use ${config.path}: ${k} of ${count} experts from ${topGroups} of ${groups} groups can ` +
        "not be chosen.",
    );
  }
  const format = b.format("experts");
  const overload: ExpertFormat = format.name === "int8" || format.name === "int4"
    ? format.name
    : "float";
  const dense = denseFeedForward(b);

  const routedExperts = (x: Value, layer: number, prefix: string): Value => {
    b.useFunction(sparseExpertsFunction(overload));
    const router = b.weights.add(
      `${prefix}.gate.weight`,
      b.rows(`${prefix}.gate.weight`, [count, hidden]),
      f32,
    )[0]!.name;
    const gateUps: Rows[] = [];
    const downs: Rows[] = [];
    for (let expert = 0; expert < count; expert++) {
      const at = `${prefix}.experts.${expert}`;
      const gate = b.rows(`${at}.gate_proj.weight`, [width, hidden]);
      gateUps.push(interleaveRows(gate, b.rows(`${at}.up_proj.weight`, [width, hidden])));
      downs.push(b.rows(`${at}.down_proj.weight`, [hidden, width]));
    }
    const perTensor = b.expertsPerTensor(
      Math.max(
        largestTensorBytes(2 * width, hidden, format),
        largestTensorBytes(hidden, width, format),
      ),
    );
    const choice = [`layers.${layer}.experts`, `layers.${layer}.weights`];
    let sum: Value = "";
    for (let first = 0; first < count; first += perTensor) {
      const end = Math.min(first + perTensor, count);
      const part = perTensor < count ? `.from${first}` : "";
      const stack = (name: string, sources: Rows[]) => {
        const rows = stackRows(sources.slice(first, end));
        const leading = [end - first, rows.rows / (end - first)];
        const tensorName = `${prefix}.experts.${name}${part}`;
        return b.weights.add(tensorName, rows, format, leading, end - first)
          .map((tensor) => tensor.name);
      };
      const y = b.graph.op(
        sparseExperts(overload).name,
        [x, router, ...stack("gate_up_proj", gateUps), ...stack("down_proj", downs)],
        {
          k,
          groups,
          top_groups: topGroups,
          normalize: normalize ? 1 : 0,
          // DeepSeek's own code normalizes the weights or scales them, never both.
          scaling: { float: normalize ? 1 : routing.scaling },
          first_expert: first,
        },
        {
          domain: "hybridseek",
          overload,
          outputs: [`layers.${layer}.routed${part}`, ...(first === 0 ? choice : ["", ""])],
        },
      );
      sum = first === 0 ? y : b.add(sum, y, `${y}.sum`);
    }
    b.output(choice[0]!, "i32", ["T", k]);
    b.output(choice[1]!, "f32", ["T", k]);
    return sum;
  };

  return (x, layer, prefix) => {
    if (layer < firstSparse || layer % frequency !== 0) return dense(x, layer, prefix);
    const routed = routedExperts(x, layer, prefix);
    if (shared === 0) return routed;
    const at = `layers.${layer}`;
    const common = b.mlp(x, `${prefix}.shared_experts`, hidden, shared * width, `${at}.shared`);
    return b.add(routed, common, `${at}.fed`);
  };
}
