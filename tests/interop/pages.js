// A browser that does what it is told: one JSON object a line, `{ page, what, given }`, and a line with the answer for each. `pages.py`
// is the other side. Pages are numbered in the order in which they were opened.

const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");

const pages = [];
let browser;

const open = async ({ url, width = 1280, height = 900, scheme = "light", script = true }) => {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, javaScriptEnabled: script, bypassCSP: false });
  return add(await context.newPage(), url);
};

const add = async (page, url) => {
  const about = { page, requests: [], errors: [], dialogs: 0 };
  page.on("request", (request) => about.requests.push(request.url()));
  page.on("pageerror", (error) => about.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && about.errors.push(message.text()));
  // Only what a client's id has made run would open one.
  page.on("dialog", (dialog) => (about.dialogs += 1) && dialog.dismiss());
  pages.push(about);
  await page.goto(url, { waitUntil: "load" });
  return pages.length - 1;
};

const ACTIONS = {
  open: (_, given) => open(given),
  // Another tab of the same browser window, which shares what a browser shares between tabs.
  beside: (about, { url }) => about.page.context().newPage().then((page) => add(page, url)),
  click: ({ page }, { where }) => page.click(where),
  fill: ({ page }, { where, text }) => page.fill(where, text),
  press: ({ page }, { key }) => page.keyboard.press(key),
  text: ({ page }, { where }) => page.locator(where).first().innerText(),
  shown: ({ page }, { where }) => page.locator(where).first().isVisible(),
  count: ({ page }, { where }) => page.locator(where).count(),
  evaluate: ({ page }, { code }) => page.evaluate(code),
  hidden: ({ page }, { where }) => page.locator(where).first().isHidden(),
  close: ({ page }) => page.close(),
  screenshot: ({ page }, { path, whole = false }) => page.screenshot({ path, fullPage: whole }).then(() => null),
  about: ({ requests, errors, dialogs }) => ({ requests, errors, dialogs }),
  // Serious faults of accessibility, by rule and element.
  faults: async ({ page }) => {
    // As a user of the tool would run it: the page's policy lets no script in but its own.
    const source = require("fs").readFileSync(axe, "utf8");
    const session = await page.context().newCDPSession(page);
    await session.send("Runtime.evaluate", { expression: source });
    const { result, exceptionDetails } = await session.send("Runtime.evaluate", {
      expression: "axe.run().then((found) => JSON.stringify(found.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 160) + ' ' + (n.any[0]?.message ?? '')).slice(0, 5)])))",
      awaitPromise: true, returnByValue: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return JSON.parse(result.value).filter(([impact]) => impact === "serious" || impact === "critical");
  },
};

(async () => {
  browser = await chromium.launch({
    executablePath: process.argv[2],
    // Its sandbox needs what a container's root does not have; /dev/shm may be small there too. It is to talk to nobody else.
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server", "--disable-background-networking", "--disable-component-update"],
  });
  console.log("ready");
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    const { page, what, given } = JSON.parse(line);
    try {
      console.log(JSON.stringify({ answer: (await ACTIONS[what](pages[page], given)) ?? null }));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error).split("\n").slice(0, 4).join(" ") }));
    }
  }
  await browser.close();
})();
