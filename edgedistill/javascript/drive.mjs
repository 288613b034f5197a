// The runner in a browser: JSON lines in and out here, the work in a page (page.mjs). Argument, one JSON:
//   playwright  folder of playwright-core        chromium  the browser's command        slowed  CPU slowed so many times (1: not)
//   files       path of the page → file          seconds, seconds_a_text                how long an answer may take
// The page is served from here, on loopback alone, with the two headers that isolate it from other origins: an isolated page has threads
// and a clock of 5 µs steps, another one of 100 µs.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

const { playwright, chromium, slowed, files, seconds, seconds_a_text: aText } = JSON.parse(process.argv[2]);
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript", mjs: "text/javascript", wasm: "application/wasm" };
const HEADERS = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp", "cache-control": "no-store" };

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function serve() {
  const server = createServer(async ({ method, url }, response) => {
    const file = method === "GET" && Object.hasOwn(files, url) ? files[url] : undefined; // these files and no others
    if (!file) return response.writeHead(404).end();
    try {
      const content = await readFile(file);
      response.writeHead(200, { ...HEADERS, "content-type": TYPES[file.split(".").at(-1)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(500).end();
    }
  });
  return new Promise((ready) => server.listen(0, "127.0.0.1", () => ready(server)));
}

/** Peak resident memory of the page's process, bytes: the largest of the browser's renderers. */
async function peak(devtools) {
  const { processInfo } = await devtools.send("SystemInfo.getProcessInfo");
  const peaks = processInfo.filter(({ type }) => type === "renderer").map(async ({ id }) => {
    const status = await readFile(`/proc/${id}/status`, "utf8").catch(() => "");
    return 1024 * Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0);
  });
  return Math.max(0, ...(await Promise.all(peaks)));
}

/** `work`, or an error when the page takes too long or dies. */
function within(page, limit, work) {
  let timer;
  const ends = new Promise((_, refuse) => {
    timer = setTimeout(() => refuse(new Error(`the page gave no answer within ${limit} s and was closed: it hangs.`)), limit * 1000);
    page.on("crash", () => refuse(new Error("the page's process died, as it does when the browser gets no memory.")));
  });
  return Promise.race([work, ends]).finally(() => clearTimeout(timer));
}

const { chromium: browsers } = (await import(`${playwright}/index.mjs`)).default;
let browser, server;
try {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const hello = JSON.parse((await lines.next()).value);
  Object.assign(files, { "/model": hello.model, "/tokenizer": hello.tokenizer });
  server = await serve();
  // The sandbox of the browser does not start as root.
  browser = await browsers.launch({ executablePath: chromium, args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
  const devtools = await browser.newBrowserCDPSession();
  const page = await browser.newPage();
  if (slowed > 1) await (await page.context().newCDPSession(page)).send("Emulation.setCPUThrottlingRate", { rate: slowed });
  const problems = [];
  page.on("pageerror", (problem) => problems.push(problem.message));
  // A web app starts when its page is opened, not when the browser is.
  const started = performance.now();
  await page.goto(`http://127.0.0.1:${server.address().port}/`, { timeout: seconds * 1000 });
  await page.waitForFunction(() => globalThis.runner, null, { timeout: seconds * 1000 }).catch((problem) => {
    throw new Error(`the page does not start: ${problems[0] ?? problem.message}`);
  });
  if (!(await page.evaluate(() => globalThis.crossOriginIsolated)))
    throw new Error("the page is not isolated from other origins, so its clock is too coarse to measure with: this browser is too old, or told not to.");
  const baseline = await peak(devtools);
  const opened = await within(page, seconds, page.evaluate((asked) => globalThis.runner.open(asked), hello));
  say({ ...opened, cold_start_ms: performance.now() - started, baseline_bytes: baseline, peak_bytes: await peak(devtools) });
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const request = JSON.parse(line.value);
    const limit = seconds + aText * (request.texts?.length ?? 0);
    const found = await within(page, limit, page.evaluate((asked) => globalThis.runner.measure(asked), request));
    say({ ...found, peak_bytes: await peak(devtools) });
  }
} catch (problem) {
  say({ error: problem.message.split("\n")[0].replace(/^page\.\w+: /, "") });
  process.exitCode = 1;
} finally {
  await browser?.close();
  server?.close();
  process.stdin.destroy();
}
