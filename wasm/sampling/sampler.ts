/**
 * The sampler: logits in, a token and its log-probability out.
 *
 * The host (`src/sampling/sampler.ts`) writes V logits to `logits` and calls, in this order:
 *
 *     begin                                   checks the logits, sums up the softmax
 *     applyMask applyBias applyBans penalize  as wanted; lists go through reserveInput
 *     greedy | draw                           the token
 *     logprob rank findTop                    of the logits as they came
 *
 * Nothing that one token leaves behind is read by the next: the result is a function of the
 * arguments, the same on every machine. There are no imports and no allocations per token.
 * @module
 */
export { allowed, candidateIds, initialize, logits, reserveInput, weights } from "./memory";
export { count as candidateCount } from "./candidates";
export { begin, findTop, logprob, rank } from "./logprobs";
export { applyBans, applyBias, applyMask, penalize } from "./adjust";
export { draw, greedy } from "./draw";
export { uniform } from "./philox";
