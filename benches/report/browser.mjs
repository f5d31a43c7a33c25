// Opens reports in Chromium and uses them as a reader would.
//   node browser.mjs FOLDER      with scan.html, hunt.html, hostile.html and large.html in it
// Leaves screenshots and a printed page in FOLDER, prints one line a check, and exits with 1 if one fails.
import { readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const folder = resolve(process.argv[2]);
const SECONDS = 2;
const BYTES = 5_000_000;
let failed = 0;

function check(what, holds, found = "") {
  console.log(`${holds ? "ok  " : "FAIL"} ${what}${found === "" ? "" : `: ${found}`}`);
  failed += holds ? 0 : 1;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

// Opens a page; what it says on the console and asks the network for is collected.
async function open(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  // A busy machine makes everything slow, and nothing wrong.
  context.setDefaultTimeout(300_000);
  const page = await context.newPage();
  const session = await context.newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const url = pathToFileURL(`${folder}/${name}.html`).href;
  const seen = { console: [], requests: [] };
  page.on("console", (message) => seen.console.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => seen.console.push(`error: ${error.message}`));
  page.on("request", (request) => { if (request.url() !== url) seen.requests.push(request.url()); });
  const start = performance.now();
  await page.goto(url, { waitUntil: "load" });
  // Two frames later everything has been laid out and painted; without script there are no frames to ask for.
  if (options.javaScriptEnabled !== false) await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  const seconds = (performance.now() - start) / 1000;
  const { metrics } = await session.send("Performance.getMetrics");
  const busy = metrics.find((metric) => metric.name === "TaskDuration").value;
  return { page, context, seen, seconds, busy };
}

const shown = (page, id) => page.locator(`#${id} tbody tr:visible`).count();
const column = (page, id, index) =>
  page.locator(`#${id} tbody tr`).evaluateAll(
    (rows, at) => rows.filter((row) => !row.hidden).map((row) => row.cells[at].dataset.v ?? row.cells[at].textContent),
    index,
  );
const sorted = (values, sign) => values.every((value, at) => at === 0 || sign * (value - values[at - 1]) >= 0);

for (const name of ["scan", "hunt", "hostile", "large"]) {
  const { page, context, seen, seconds } = await open(name);
  check(`${name}: opens`, (await page.locator("h1").count()) === 1, `${seconds.toFixed(2)} s`);
  check(`${name}: the console is silent`, seen.console.length === 0, seen.console.join(" | "));
  check(`${name}: no request leaves the page`, seen.requests.length === 0, seen.requests.join(" "));
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(`${name}: no sideways scrolling`, wide <= 0, wide);
  const plots = await page.locator(".plot[role=img][aria-label] svg").count();
  check(`${name}: plots have descriptions`, plots > 0 && plots === (await page.locator("svg").count()), plots);
  await context.close();
}

{
  const { page, context, seconds, busy } = await open("large");
  const bytes = statSync(`${folder}/large.html`).size;
  check("large: size", bytes < BYTES, `${(bytes / 1e6).toFixed(2)} MB`);
  // Processor time of the page's own thread: what other programs do meanwhile does not count.
  check("large: time to open", busy < SECONDS, `${busy.toFixed(2)} s of work, ${seconds.toFixed(2)} s by the clock`);
  check("large: rows", (await shown(page, "answers")) === 2000 && (await shown(page, "screened")) === 2000);

  // Filtering, with the keyboard alone.
  const filter = page.getByLabel("Filter").and(page.locator("#answers-filter"));
  await filter.focus();
  const start = performance.now();
  await page.keyboard.type("needle LAST");
  check("large: filtering", (await shown(page, "answers")) === 1, `${(performance.now() - start).toFixed(0)} ms`);
  check("large: the count is told", (await page.locator("#answers output").textContent()) === "1 of 2000 rows");
  await filter.fill("");
  check("large: an empty filter shows all", (await shown(page, "answers")) === 2000);

  // Sorting, with the keyboard alone.
  const head = page.locator("#answers th", { hasText: "KL" });
  await head.getByRole("button").focus();
  const begin = performance.now();
  await page.keyboard.press("Enter");
  const down = (await column(page, "answers", 4)).map(Number);
  check("large: sorting, largest first", sorted(down, -1) && (await head.getAttribute("aria-sort")) === "descending",
    `${(performance.now() - begin).toFixed(0)} ms`);
  await page.keyboard.press("Space");
  const up = (await column(page, "answers", 4)).map(Number);
  check("large: sorting again, smallest first", sorted(up, 1) && (await head.getAttribute("aria-sort")) === "ascending");
  await page.locator("#screened th", { hasText: "candidate" }).getByRole("button").click();
  const words = await column(page, "screened", 0);
  const collator = new Intl.Collator(undefined, { numeric: true });
  check("large: sorting words", words.every((word, at) => at === 0 || collator.compare(words[at - 1], word) <= 0));
  await context.close();
}

{
  const { page, context, seen } = await open("hostile");
  check("hostile: nothing ran", !(await page.title()).startsWith("owned"), await page.title());
  const counts = await page.evaluate(() => [document.scripts.length, document.styleSheets.length, document.images.length]);
  check("hostile: one script, one style, no image", counts.join() === "1,1,0", counts.join());
  const text = await page.locator("main").innerText();
  check("hostile: it is shown as text", ["<script>document.title='owned'</script>", "</style>", "\\u{1b}[2J", "\\u{202e}txt.exe"]
    .every((part) => text.includes(part)));
  check("hostile: nothing invisible", !/[\u001b\u0007\u202e\u200b\u{e0041}]/u.test(await page.content()));
  // The policy forbids what the escaping should never let through.
  const refused = await page.evaluate(() => new Promise((done) => {
    document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective), { once: true });
    const script = document.createElement("script");
    script.textContent = "document.title = 'owned'";
    document.body.append(script);
    setTimeout(() => done("nothing"), 1000);
  }));
  check("hostile: the policy refuses another script", refused.startsWith("script-src") && (await page.title()) !== "owned", refused);
  const request = await page.evaluate(() => fetch("http://127.0.0.1:9/").then(() => "sent", () => "refused"));
  check("hostile: the policy refuses requests", request === "refused" && seen.requests.length === 0, seen.requests.join(" "));
  await context.close();
}

{
  // What a reader without script, and one without a mouse, gets.
  const { page, context } = await open("scan", { javaScriptEnabled: false });
  check("without script: the tables are there", (await page.locator("#screened tbody tr").count()) > 1);
  check("without script: no dead controls", (await page.locator("main button, main input").count()) === 0);
  await context.close();
}
{
  const { page, context } = await open("scan");
  await page.keyboard.press("Tab");
  check("keyboard: the first stop skips to the verdict", (await page.evaluate(() => document.activeElement.className)) === "skip");
  const unnamed = await page.evaluate(() => [...document.querySelectorAll("button, input, [tabindex], [role=img]")]
    .filter((element) => !(element.textContent.trim() || element.labels?.length || element.ariaLabel)).length);
  check("screen reader: every control has a name", unnamed === 0, unnamed);
  const order = await page.evaluate(() => [...document.querySelectorAll("h1, h2, h3, h4, h5")].map((h) => +h.tagName[1]));
  check("screen reader: no level of headings is skipped", order.every((level, at) => at === 0 || level <= order[at - 1] + 1), order.join(""));
  await page.pdf({ path: `${folder}/scan.pdf`, format: "A4" });
  check("print: a page comes out", readFileSync(`${folder}/scan.pdf`).subarray(0, 5).toString() === "%PDF-");
  await context.close();
}

// The contrast of text with what is behind it (WCAG 2.2: 4.5 for text).
const contrast = () => {
  const parse = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let worst = { ratio: 21, text: "" };
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg, .unseen, script") || !element.checkVisibility()) continue;
    const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 30)}` };
  }
  return worst;
};

for (const name of ["scan", "hunt", "hostile"]) {
  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      const { page, context } = await open(name, { viewport: { width, height: 900 }, colorScheme });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      check(`${name} ${width} ${colorScheme}: fits`, wide <= 0, wide);
      const { ratio, text } = await page.evaluate(contrast);
      check(`${name} ${width} ${colorScheme}: contrast`, ratio >= 4.5, `${ratio.toFixed(2)} ${text}`);
      await page.screenshot({ path: `${folder}/${name}-${width}-${colorScheme}.png`, fullPage: true });
      await context.close();
    }
  }
}

await browser.close();
console.log(failed === 0 ? "all checks passed" : `${failed} checks failed`);
process.exit(failed === 0 ? 0 : 1);
