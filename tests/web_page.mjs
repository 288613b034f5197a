// Drives the web app in Chromium as a person would. Arguments: playwright-core's folder, Chromium, the page's address, a text, the screenshot.
// Prints one JSON line for each thing that it saw.
const [, , playwright, chromium, address, text, picture] = process.argv;
const { chromium: browser } = (await import(`${playwright}/index.mjs`)).default ?? (await import(`${playwright}/index.mjs`));

const say = (line) => console.log(JSON.stringify(line));
const opened = await browser.launch({ executablePath: chromium, args: ["--no-sandbox"] });
try {
  const context = await opened.newContext({ viewport: { width: 900, height: 620 } });
  const page = await context.newPage();
  page.on("pageerror", (problem) => say({ pageerror: problem.message }));
  const ask = async () => {
    await page.fill("#text", text, { timeout: 60_000 });
    await page.press("#text", "Enter");
    await page.waitForFunction(() => document.getElementById("answer").textContent !== "", null, { timeout: 60_000 });
    return { answer: await page.textContent("#answer"), sure: await page.textContent("#sure"), ms: await page.textContent("#ms"), shown: await page.textContent("#shares"), marks: await page.locator("mark").allTextContents() };
  };
  await page.goto(address);
  await page.waitForFunction(() => !document.getElementById("text").disabled || !document.getElementById("problem").hidden, null, { timeout: 120_000 });
  if (!(await page.isHidden("#problem"))) throw new Error(await page.textContent("#problem"));
  say({ online: await ask() });
  await page.waitForFunction(() => window.checked, null, { timeout: 120_000 });
  say({ checked: await page.evaluate(() => window.checked), isolated: await page.evaluate(() => crossOriginIsolated) });
  await page.waitForFunction(() => document.getElementById("offline").textContent === "Works offline", null, { timeout: 60_000 });
  await page.screenshot({ path: picture });
  await context.setOffline(true);
  await page.reload();
  say({ offline: await ask(), reachable: await page.evaluate(() => fetch("nothing-that-is-kept").then(() => true, () => false)) });
} finally {
  await opened.close();
}
