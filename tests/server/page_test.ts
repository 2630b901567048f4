/**
 * The chat page: what is served, and how it behaves in Chromium and Firefox. HYBRIDSEEK_SCREENSHOTS names a
 * folder for pictures of it.
 */
import { strict as assert } from "node:assert";
import { createServer } from "../../src/server/mod.ts";
import { temporaryPath } from "../packages.ts";
import { needsRuntimes } from "../runtimes/runtimes.ts";
import { install, runClient } from "./clients.ts";
import { scriptedModel } from "./scripted_model.ts";
import { request, serverOf } from "./serving.ts";

Deno.test("the page's files are served with a policy that lets nothing foreign in", async () => {
  const server = await serverOf();
  const types = { "/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript" };
  for (const [path, type] of Object.entries(types)) {
    const response = await server.fetch(request(path));
    assert.equal(response.headers.get("content-type"), `${type}; charset=utf-8`);
    const policy = response.headers.get("content-security-policy")!;
    assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self';/);
    assert(!/unsafe|\*|https?:/.test(policy));
    const text = await response.text();
    if (path === "/") assert(!/<script(?![^>]* src=)| on\w+=|<style| style=/.test(text));
  }
});

Deno.test(needsRuntimes("the committed page is the one that page/ gives"), async () => {
  const args = ["run", "--allow-all", "page/build.ts", "--check"];
  const cwd = new URL("../../", import.meta.url);
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd }).output();
  assert(success, new TextDecoder().decode(stderr));
});

/** What a model might write if somebody taught it to. */
const HOSTILE =
  `**bold** \`code\` <img src=x onerror="hacked = true"> <script>hacked = true</script>
[bad](javascript:hacked=true) [good](https://example.com/) ![](https://example.com/leak?secret)
<iframe srcdoc="<script>parent.hacked = true</script>"></iframe><form action="https://example.com"></form>`;

function hostileAnswer(): Response {
  const choices = (delta: object, finish_reason: string | null = null) => ({
    choices: [{ index: 0, delta, finish_reason }],
  });
  const data = [choices({ content: "So: " }), choices({ content: HOSTILE }), choices({}, "stop")];
  const events = [...data.map((item) => JSON.stringify(item)), "[DONE]"];
  return new Response(events.map((event) => `data: ${event}\n\n`).join(""), {
    headers: { "content-type": "text/event-stream" },
  });
}

const BROWSERS = [
  { name: "Chromium", browser: "chrome", executablePath: "/usr/bin/chromium" },
  { name: "Firefox", browser: "firefox", executablePath: "/usr/bin/firefox-esr" },
];

let folder: Promise<string> | undefined;

for (const { name, browser, executablePath } of BROWSERS) {
  const missing = exists(executablePath) ? undefined : `no ${executablePath}`;
  Deno.test(
    needsRuntimes(`the page streams, stops and shows its speed in ${name}`, missing),
    async () => {
      folder ??= install(["puppeteer-core@25.16.0"]);
      const screenshots = Deno.env.get("HYBRIDSEEK_SCREENSHOTS") ?? temporaryPath("screenshots");
      await Deno.mkdir(screenshots, { recursive: true });
      const plain = await serverOf();
      const slow = createServer(
        scriptedModel({ step: () => new Promise((resolve) => setTimeout(resolve, 20)) }).llm,
      );
      const keyed = await serverOf({ apiKeys: ["secret"] });
      const listen = (handler: (request: Request) => Response | Promise<Response>) =>
        Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, handler);
      const servers = [
        listen(plain.fetch),
        listen(slow.fetch),
        listen((request) =>
          request.url.endsWith("/completions") ? hostileAnswer() : plain.fetch(request)
        ),
        listen(keyed.fetch),
      ];
      const [address, slowly, hostile, withKey] = servers.map(({ addr }) =>
        `http://127.0.0.1:${addr.port}/`
      );
      try {
        await runClient(await folder, "page.mjs", {
          ...{ browser, executablePath, address, slow: slowly, hostile, screenshots },
          key: { address: withKey, password: "secret" },
        });
        const figures = await (await slow.fetch(request("/metrics"))).text();
        assert.match(figures, /requests_total\{reason="abort"\} 1\n/);
      } finally {
        await Promise.all(servers.map((server) => server.shutdown()));
      }
    },
  );
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}
