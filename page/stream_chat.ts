/**
 * Asks the server for an answer and hands it on while it comes.
 * @module
 */

/** A message of a conversation. */
export interface ChatMessage {
  /** Whose. */
  role: "user" | "assistant";
  /** What. */
  content: string;
}

/** How an answer went. */
export interface Figures {
  /** Tokens so far. */
  tokens: number;
  /** Tokens per second, from the second on. */
  tokensPerSecond: number | undefined;
  /** From the question to the first token, milliseconds. */
  firstTokenMs: number;
}

/**
 * Asks.
 *
 * @param messages The conversation.
 * @param signal Stops the answer.
 * @param onText Told of the answer so far, whenever it has grown.
 * @throws {Error} What the server says, if it refuses or fails.
 */
export async function streamChat(
  messages: ChatMessage[],
  signal: AbortSignal,
  onText: (text: string, figures: Figures) => void,
): Promise<void> {
  const asked = performance.now();
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ messages, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) {
    const { error } = await response.json();
    throw new Error(error.message);
  }
  let [text, tokens, first, last] = ["", 0, 0, 0];
  const show = () => {
    const seconds = (last - first) / 1000;
    const tokensPerSecond = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : undefined;
    onText(text.trimStart(), { tokens, tokensPerSecond, firstTokenMs: first - asked });
  };
  for await (const data of events(response.body!)) {
    if (data === "[DONE]") return;
    const { choices, usage, error } = JSON.parse(data);
    if (error) throw new Error(error.message);
    const content = choices[0]?.delta.content;
    if (content) {
      last = performance.now();
      if (tokens++ === 0) first = last;
      text += content;
    }
    // A token may have no text of its own; the server has counted them all.
    if (usage) tokens = usage.completion_tokens;
    if (content || usage) show();
  }
  throw new Error("The connection ended before the answer did.");
}

/** The data of a stream's events. */
async function* events(body: ReadableStream<BufferSource>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    const blocks = (rest + piece.value).split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) if (block.startsWith("data: ")) yield block.slice("data: ".length);
  }
}
