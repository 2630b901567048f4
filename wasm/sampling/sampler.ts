/**
 * The sampler: logits in, a token and its log-probability out.
 *
 * The host (`src/sampling/sampler.ts`) writes V logits to `logits` and calls, in this order:
 *
 *     begin                                   checks the logits
 *     applyMask applyBias applyBans penalize  as wanted; lists go through reserveInput
 *     greedy | draw                           the token
 *     logprob rank findTop                    of the logits, begun anew if they are adjusted
 *
 * Nothing that one token leaves behind is read by the next: the result is a function of the
 * arguments, the same on every machine. There are no imports and no allocations per token.
 * @module
 */
export { allowed, candidateIds, initialize, logits, reserveInput, weights } from "./memory";
export { count as candidateCount } from "./candidates";
export { adjusted, begin } from "./logits";
export { findTop, logprob, rank } from "./logprobs";
export { applyBans, applyBias, applyMask, penalize } from "./adjust";
export { draw, greedy } from "./draw";
export { uniform } from "./philox";
