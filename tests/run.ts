/**
 * `deno task test [file ...]`: runs the tests and ends with a plain line `N passed, N failed`.
 *
 * Needs nothing but Deno: tests that want Python or a compiler say in their names why they were left out.
 * Examples in doc comments are tests too.
 * @module
 */

/** Counts of a JUnit report. */
interface Counts {
  passed: number;
  failed: number;
  ignored: number;
}

/** Adds up the suites of a report that `deno test --junit-path` wrote. */
function countOf(report: string): Counts {
  const sum = (attribute: string) =>
    [...report.matchAll(/<testsuite [^>]*>/g)].reduce((total, [suite]) => {
      const value = new RegExp(` ${attribute}="(\\d+)"`).exec(suite)?.[1];
      return total + Number(value ?? 0);
    }, 0);
  const failed = sum("failures") + sum("errors");
  const ignored = sum("disabled") + sum("skipped");
  return { passed: sum("tests") - failed - ignored, failed, ignored };
}

const report = await Deno.makeTempFile({ suffix: ".xml" });
const selection = Deno.args.length > 0 ? Deno.args : ["--doc", "tests/", "mod.ts", "src/"];
const { code, signal } = await new Deno.Command(Deno.execPath(), {
  args: ["test", "--allow-all", "--junit-path", report, ...selection],
}).spawn().status;
const { passed, failed, ignored } = countOf(await Deno.readTextFile(report));
await Deno.remove(report);
if (ignored > 0) console.log(`${ignored} left out; their names say why`);
if (signal) console.log(`deno test was ended by ${signal}; the last line above names what ran`);
// A suite that could not start or was ended has no line in the report, but an exit code.
const unreported = code !== 0 && failed === 0 ? 1 : 0;
console.log(`${passed} passed, ${failed + unreported} failed`);
Deno.exit(code);
