/** The chat page in a browser: it streams, stops, shows its speed, and lets nothing foreign run. */
import assert from "node:assert/strict";
import process from "node:process";
import puppeteer from "puppeteer-core";

const { browser: name, executablePath, address, slow, hostile, key, screenshots } = JSON.parse(
  process.argv[2],
);
const args = name === "chrome"
  ? ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
  : [];
const browser = await puppeteer.launch({ browser: name, executablePath, args, headless: true });
try {
  const page = await browser.newPage();
  await page.setViewport({ width: 900, height: 700 });
  const errors = [];
  page.on("pageerror", (error) => {
    // The one that the test provokes.
    if (!/blocked an inline script/.test(String(error))) errors.push(String(error));
  });

  const ask = async (text) => {
    await page.waitForSelector("textarea");
    const before = await page.$$eval(".assistant", (list) => list.length);
    await page.type("textarea", text);
    await page.keyboard.press("Enter");
    await page.waitForFunction(
      (count) => document.querySelectorAll(".assistant .figures").length > count,
      {},
      before,
    );
  };
  const answered = () => page.waitForSelector("button[type=submit]");
  const last = (selector) => page.$$eval(`.assistant ${selector}`, (list) => list.at(-1).textContent);
  const shot = (what) => page.screenshot({ path: `${screenshots}/${name}-${what}.png` });

  await page.goto(address);
  await page.waitForFunction(() => document.querySelector(".model")?.textContent !== "");
  assert.equal(await page.$eval(".model", ({ textContent }) => textContent), "hybridseek");

  await ask("Who are you?");
  await answered();
  assert.match(await last(".text"), /^I am .+\./);
  assert.match(await last(".figures"), /^\d+ tokens · [\d.]+ tokens\/s · first after \d+ ms$/);
  await shot("answered");

  await page.goto(slow);
  await ask("Go on for ever.");
  assert.equal(await page.$("button[type=submit]"), null, "the answer is not streamed");
  await page.evaluate(() => document.querySelector("form button").click());
  await answered();
  assert.match(await last(".figures"), /stopped$/);
  const stopped = await last(".text");
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(await last(".text"), stopped, "it goes on after it was stopped");
  await shot("stopped");

  // What an inline script would do, the policy forbids.
  const inline = await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "globalThis.hacked = true";
    document.head.append(script);
    return globalThis.hacked;
  });
  assert.equal(inline, undefined);

  await page.goto(hostile);
  await ask("Be hostile.");
  await answered();
  await shot("hostile");
  assert.equal(await page.$$eval(".assistant strong, .assistant code", (list) => list.length), 2);
  assert.equal(
    await page.$$eval("main :is(img, script, iframe, style, form)", (list) => list.length),
    0,
  );
  assert.deepEqual(
    await page.$$eval(".assistant a", (list) => list.map((a) => [a.getAttribute("href"), a.rel])),
    [[null, "noopener noreferrer"], ["https://example.com/", "noopener noreferrer"]],
  );
  assert.equal(await page.evaluate(() => globalThis.hacked), undefined);

  await page.authenticate({ username: "me", password: key.password });
  await page.goto(key.address);
  await ask("Who are you?");
  await answered();
  assert.match(await last(".text"), /^I am/);

  assert.deepEqual(errors, []);
} finally {
  await browser.close();
}
