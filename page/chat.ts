/**
 * The chat page: a conversation that streams, stops, and says how fast it went.
 * @module
 */
import DOMPurify from "npm:dompurify@3.4.18";
import htm from "npm:htm@3.1.1";
import { marked } from "npm:marked@18.2.1";
import { h, render, type VNode } from "npm:preact@11.2.0";
import { useEffect, useRef, useState } from "npm:preact@11.2.0/hooks";
import { type ChatMessage, type Figures, streamChat } from "./stream_chat.ts";

type Html = (strings: TemplateStringsArray, ...values: unknown[]) => VNode;
// Its types describe its other module format.
const html = (htm as unknown as { bind(make: typeof h): Html }).bind(h);

/** A message as it is shown. */
interface ShownMessage extends ChatMessage {
  /** How an answer went. */
  figures?: Figures;
  /** Whether it was stopped. */
  stopped?: boolean;
  /** Why it has no end. */
  failure?: string;
}

/** What a model writes may hold no pictures: an address of one could carry the conversation away. */
const CLEAN = { FORBID_TAGS: ["img", "picture", "video", "audio", "style", "form", "input"] };

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

function markdown(text: string): string {
  return DOMPurify.sanitize(marked.parse(text, { async: false }), CLEAN);
}

function figuresText({ figures, stopped }: ShownMessage): string {
  const { tokens, tokensPerSecond, firstTokenMs }: Partial<Figures> & { tokens: number } =
    figures ?? { tokens: 0 };
  return [
    `${tokens} token${tokens === 1 ? "" : "s"}`,
    ...tokensPerSecond === undefined ? [] : [`${tokensPerSecond.toFixed(1)} tokens/s`],
    ...firstTokenMs === undefined ? [] : [`first after ${firstTokenMs.toFixed(0)} ms`],
    ...stopped ? ["stopped"] : [],
  ].join(" · ");
}

function Message({ message }: { message: ShownMessage }) {
  const { role, content, figures, stopped, failure } = message;
  const text = role === "user" ? html`<div class="text">${content}</div>` : html`
    <div class=${content || stopped || failure ? "text" : "text waiting"}
      dangerouslySetInnerHTML=${{ __html: markdown(content) }}></div>
  `;
  return html`<article class="message ${role}">
    ${text}
    ${(figures || stopped) && html`<div class="figures">${figuresText(message)}</div>`}
    ${failure && html`<div class="figures failed" role="alert">${failure}</div>`}
  </article>`;
}

function Page() {
  const [model, setModel] = useState("");
  const [messages, setMessages] = useState<ShownMessage[]>([]);
  const [running, setRunning] = useState<AbortController>();
  const [text, setText] = useState("");
  const list = useRef<HTMLElement>(null);
  const input = useRef<HTMLTextAreaElement>(null);

  useEffect(() => {
    fetch("v1/models").then((response) => response.json())
      .then(({ data }) => setModel(data[0].id), () => setModel("(no answer from the server)"));
  }, []);
  useEffect(() => {
    const { current } = list;
    if (current) current.scrollTop = current.scrollHeight;
  }, [messages]);

  async function send() {
    const content = text.trim();
    if (content === "" || running) return;
    const asked: ShownMessage[] = [...messages, { role: "user", content }];
    const controller = new AbortController();
    let answer: ShownMessage = { role: "assistant", content: "" };
    const show = (change: Partial<ShownMessage>) => {
      answer = { ...answer, ...change };
      setMessages([...asked, answer]);
    };
    setText("");
    setRunning(controller);
    show({});
    try {
      const history = asked.map(({ role, content }) => ({ role, content }));
      await streamChat(
        history,
        controller.signal,
        (content, figures) => show({ content, figures }),
      );
    } catch (error) {
      show(controller.signal.aborted ? { stopped: true } : { failure: (error as Error).message });
    }
    setRunning(undefined);
    input.current?.focus();
  }

  function onKeyDown(event: KeyboardEvent) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    void send();
  }

  function onSubmit(event: Event) {
    event.preventDefault();
    void send();
  }

  return html`
    <div class="page">
      <header>
        <h1>hybridseek</h1>
        <span class="model">${model}</span>
        <button class="plain" type="button" disabled=${running || messages.length === 0}
          onClick=${() => setMessages([])}>New chat</button>
      </header>
      <main ref=${list} aria-live="polite">
          ${messages.length === 0 && html`<p class="empty">Ask something.</p>`}
          ${messages.map((message, index) => html`<${Message} key=${index} message=${message} />`)}
        </main>
      <form onSubmit=${onSubmit}>
          <textarea ref=${input} rows="1" aria-label="Message" placeholder="Message" autofocus value=${text}
            onInput=${(event: Event) => setText((event.target as HTMLTextAreaElement).value)}
            onKeyDown=${onKeyDown}></textarea>
          ${running
            ? html`<button type="button" onClick=${() => running.abort()}>Stop</button>`
            : html`<button type="submit" disabled=${text.trim() === ""}>Send</button>`}
        </form>
    </div>
  `;
}

render(html`<${Page} />`, document.body);
