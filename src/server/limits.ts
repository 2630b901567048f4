/**
 * What a server lets a client take.
 * @module
 */

/** Bounds on requests and responses. */
export interface ServerLimits {
  /** Bytes of a request's body. Default 4 MiB. */
  bodyBytes: number;
  /** Prompts of one request. Default 128. */
  prompts: number;
  /** Prompts times `n` of one request. Default 128. */
  choices: number;
  /** Stop strings of a request. Default 16, as DeepSeek's API. */
  stopStrings: number;
  /** Tokens that a request may bias. Default 1,024. */
  biases: number;
  /** Log-probabilities for each token. Default 20, as OpenAI's API. */
  logprobs: number;
  /** Log-probabilities of prompt tokens in one response. Default 1,000,000. */
  promptLogprobs: number;
  /** Streams at a time for each API key, or for all clients where there are no keys. Default 128. */
  streamsPerKey: number;
  /** Milliseconds that a request may take, waiting included; then it ends with an error. Default an hour. */
  requestMs: number;
  /** Whether a request may say its own `priority`, and so go before others. Default false, as in vLLM. */
  priorities: boolean;
  /** Bytes of a stream that its client has left unread; beyond, the stream is cut. Default 1 MiB. */
  unreadBytes: number;
  /** Milliseconds of silence after which a stream says that it is alive. Default 5,000. */
  keepAliveMs: number;
}

/** The bounds unless told otherwise. */
export const defaultLimits: Readonly<ServerLimits> = Object.freeze({
  bodyBytes: 4 * 1024 * 1024,
  prompts: 128,
  choices: 128,
  stopStrings: 16,
  biases: 1024,
  logprobs: 20,
  promptLogprobs: 1_000_000,
  streamsPerKey: 128,
  requestMs: 3_600_000,
  priorities: false,
  unreadBytes: 1024 * 1024,
  keepAliveMs: 5000,
});
