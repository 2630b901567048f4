/**
 * The conversation on a terminal: a pseudo-terminal types, Ctrl-C stops an answer and ends the talk.
 */
import { strict as assert } from "node:assert";

const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;

/** Python's standard library opens the pseudo-terminal; each pair is what to wait for and what to type. */
const PROGRAM = `
import os, pty, sys, time, select, json
arguments, script = json.loads(sys.argv[1])
pid, terminal = pty.fork()
if pid == 0:
    os.environ["NO_COLOR"] = "1"
    os.execvp(arguments[0], arguments)
output, position = "", 0
def read():
    global output
    if not select.select([terminal], [], [], 60)[0]: raise TimeoutError(output)
    try: data = os.read(terminal, 4096)
    except OSError: return False
    output += data.decode(errors="replace")
    return bool(data)
for wanted, typed in script:
    while wanted not in output[position:]:
        if not read(): raise EOFError(output)
    position = output.index(wanted, position) + len(wanted)
    os.write(terminal, typed.encode())
while read(): pass
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps({"output": output, "code": code}))
`;

function python(): string | undefined {
  for (const name of [Deno.env.get("HYBRIDSEEK_PYTHON"), "python3"]) {
    if (!name) continue;
    try {
      const { success } = new Deno.Command(name, { args: ["-c", "import pty"] }).outputSync();
      if (success) return name;
    } catch {
      // Not there.
    }
  }
}

const program = Deno.build.os === "windows" ? undefined : python();
const left = program ? "" : " (ignored: no Python to open a pseudo-terminal)";

/** Runs a chat; the script's first texts are the prompts that it waits for. */
async function chat(script: [wanted: string, typed: string][]) {
  const args = [Deno.execPath(), "run", "--allow-all", main, "chat", "-t", "0"];
  const command = new Deno.Command(program!, {
    args: ["-c", PROGRAM, JSON.stringify([args, script])],
    stderr: "inherit",
  });
  const { success, stdout } = await command.output();
  assert(success);
  return JSON.parse(new TextDecoder().decode(stdout)) as { output: string; code: number };
}

Deno.test({ name: `a conversation goes on until /bye${left}`, ignore: !program }, async () => {
  const { output, code } = await chat([
    ["> ", "Who are you?\n"],
    ["questions.", ""],
    ["> ", "Hello\n"],
    ["today?", ""],
    ["> ", "/bye\n"],
  ]);
  assert.match(output, /I am a small language model/);
  assert.equal(code, 0);
});

Deno.test(
  { name: `Ctrl-C stops an answer and not the talk${left}`, ignore: !program },
  async () => {
    const { output, code } = await chat([
      ["> ", "Tell me a story about a dog.\n"],
      ["There was", "\x03"],
      ["> ", "\x04"],
    ]);
    assert(!output.includes("for the rest of their lives"), output);
    assert.equal(code, 0);
  },
);

Deno.test({ name: `Ctrl-C at the prompt ends the talk${left}`, ignore: !program }, async () => {
  assert.equal((await chat([["> ", "\x03"]])).code, 0);
});
