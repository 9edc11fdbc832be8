"use strict";
// The status page: asks the API every few seconds, follows the events, and shows both. Nothing that comes from the API becomes markup.
(() => {
  const LOOK = 3000, LOOK_HIDDEN = 20000, ANSWER_MAX = 12000, SAMPLES = 120, EVENTS_SHOWN = 200, EVENTS_SILENT = 12000, LIST = 50;
  const LIST_AGAIN = 15000, KEY = "remora-token";
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const numbers = new Intl.NumberFormat("en");
  const n = (value) => numbers.format(value);
  const counted = (value, noun) => `${n(value)} ${noun}${value === 1 ? "" : "s"}`;

  // ---- elements -------------------------------------------------------------------------------------------------------------------

  const fields = (element, given) => {
    for (const [name, value] of Object.entries(given ?? {})) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === false || value == null) element.removeAttribute(name);
      else element.setAttribute(name, value === true ? "" : value);
    }
    return element;
  };
  const make = (tag, given, ...children) => {
    const element = fields(document.createElement(tag), given);
    element.append(...children.flat(3).filter((child) => child != null && child !== false));
    return element;
  };
  const draw = (tag, given, ...children) => {
    const element = fields(document.createElementNS(SVG, tag), given);
    element.append(...children);
    return element;
  };
  // What has not changed is not touched, so that a selection and a reader's place stay.
  const put = (element, text) => { text = String(text); if (element.textContent !== text) element.textContent = text; };
  const style = (element, name, value) => { element.style.setProperty(name, value); return element; };
  const mark = (state) => make("span", { class: `mark ${state.replace(" ", "-")}` }, state);
  const idText = (id) => make("bdi", { class: "id" }, id === "" ? "(no id)" : id);
  // The same rows are kept as they are; a list that has changed is made anew.
  const rows = (body, key, made) => {
    key = JSON.stringify(key);
    if (body.dataset.key === key) return;
    body.dataset.key = key;
    body.replaceChildren(...made());
  };

  const span = (seconds) => {
    const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    const at = Math.max(parts.findIndex(([unit]) => seconds >= unit), 0);
    const [unit, name] = seconds < 1 ? [1, "s"] : parts[at];
    const whole = Math.floor(seconds / unit), next = parts[at + 1];
    const rest = next && whole < 10 ? Math.floor((seconds % unit) / next[0]) : 0;
    return rest > 0 ? `${whole} ${name} ${rest} ${next[1]}` : `${whole} ${name}`;
  };
  const bytes = (count) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let place = 0;
    while (count >= 1024 && place < units.length - 1) { count /= 1024; place += 1; }
    return `${place === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[place]}`;
  };
  const share = (part) => `${(part * 100).toFixed(1)} %`;
  const rate = (value) => (value >= 100 ? n(Math.round(value)) : value.toFixed(1));

  // ---- the API --------------------------------------------------------------------------------------------------------------------

  let token = null;
  const storage = (change) => { try { return change(window.sessionStorage); } catch { return null; } };
  const fragment = /^#token=([!-~]+)$/.exec(location.hash);
  if (fragment) {
    storage((kept) => kept.setItem(KEY, fragment[1]));
    token = fragment[1];
    history.replaceState(null, "", location.pathname);
  }
  token ??= storage((kept) => kept.getItem(KEY));

  class Refused extends Error {
    constructor(status, message) { super(message); this.status = status; }
  }
  const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
  const ask = async (path, body) => {
    const given = { headers: headers(), cache: "no-store", signal: AbortSignal.timeout(ANSWER_MAX) };
    if (body !== undefined) Object.assign(given, { method: "POST", body: JSON.stringify(body) });
    let response;
    try { response = await fetch(`/api/v1/${path}`, given); } catch { throw new Refused(0, "The balancer does not answer."); }
    let answer = null;
    try { answer = await response.json(); } catch { throw new Refused(response.ok ? 0 : response.status, `The answer was cut off (status ${response.status}).`); }
    if (!response.ok) throw new Refused(response.status, answer.error ?? `Status ${response.status}.`);
    return answer;
  };

  const utf8 = new TextEncoder();
  const percent = (bytes) => Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
  const encoded = (id) => percent(utf8.encode(id));
  // An id as the API shows it, as the bytes that it has; null if it was cut.
  const unescaped = (shown) => {
    if (/\.\.\.\(\d+B,[0-9a-f]{16}\)$/.test(shown)) return null;
    const pieces = shown.split(/(\\u\{[0-9a-f]{1,6}\}|\\x[0-9a-f]{2})/);
    return pieces.map((piece) => {
      if (/^\\u\{/.test(piece)) return encoded(String.fromCodePoint(parseInt(piece.slice(3, -1), 16)));
      if (/^\\x/.test(piece)) return `%${piece.slice(2)}`;
      return encoded(piece);
    }).join("");
  };

  // ---- what is known --------------------------------------------------------------------------------------------------------------

  let overview = null, samples = new Map(), newestSample = 0, process = null, timer = 0, looking = false, lookAgain = false;
  let state = "beginning"; // then "shown", "closed" (no token that is taken) or "lost"

  let noticed = 0;
  const notice = (text, kind = "") => {
    clearTimeout(noticed);
    if (kind === "done") noticed = setTimeout(() => notice(null), 20000);
    $("notice").className = `notice ${kind}`;
    put($("notice"), text ?? "");
    $("notice").hidden = !text;
  };

  const verdict = (isFine, sentence) => {
    const known = isFine !== null;
    $("verdict").className = `verdict ${known ? (isFine ? "fine" : "wrong") : "unknown"}`;
    put($("word"), known ? (isFine ? "Fine" : "Not fine") : "Unknown");
    put($("sentence"), sentence);
    document.title = `${$("word").textContent} · Remora`;
  };

  const live = (text, kind) => { $("live").hidden = !text; $("live").className = `live ${kind}`; put($("live"), text); };

  const look = async () => {
    if (looking) { lookAgain = true; return; }
    looking = true;
    clearTimeout(timer);
    try {
      const answer = await ask("overview");
      const isOther = process !== null && answer.status.pid !== process;
      if (isOther) restarted();
      process = answer.status.pid;
      overview = answer;
      if (answer.newest_sample !== newestSample) await lookBack(answer.newest_sample);
      const was = state;
      state = "shown";
      document.body.classList.remove("stale");
      $("sign-in").hidden = true;
      $("first").hidden = true;
      $("app").hidden = false;
      if (was === "lost" && !isOther) notice(null);
      live("live", "on");
      show();
      follow();
      if (was !== "shown") lookAtList();
      if (answer.peers > 0) lookAtPeers();
    } catch (error) {
      missed(error);
    } finally {
      looking = false;
      timer = setTimeout(look, lookAgain ? 100 : document.hidden ? LOOK_HIDDEN : LOOK);
      lookAgain = false;
    }
  };

  const missed = (error) => {
    if (!(error instanceof Refused)) { notice(`This page has failed: ${error.message}`, "failed"); return; }
    if (error.status === 401 || error.status === 403) { closed(error); return; }
    unfollow();
    if (state !== "lost") verdict(null, error.message);
    state = "lost";
    document.body.classList.add("stale");
    live("no answer, asking again", "off");
  };

  const WHY = {
    401: () => "Everything else takes a token: one of [admin] in the configuration, or the one in the address that `remora ctl page` has printed.",
    403: (said) => (said.startsWith("no token is configured") ? "No token is configured in [admin], so this is all there is here. `remora ctl page` shows everything, and can change it." : said),
  };
  // The caller may not read: what is said to all is shown, anew each time.
  const closed = async (error) => {
    unfollow();
    state = "closed";
    document.body.classList.remove("stale");
    $("app").hidden = true;
    $("first").hidden = false;
    $("sign-in").hidden = false;
    overview = null;
    live("", "");
    const isUnknown = token && error.status === 401;
    put($("sign-in-why"), isUnknown ? "This token is not known. Nothing was done." : WHY[error.status](error.message));
    $("sign-in-field").hidden = error.status === 403;
    if (token && error.status === 401) forget();
    try {
      const response = await fetch("/?open", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MAX) });
      // Without its head, whose style has the nonce of another answer.
      const text = await response.text();
      const other = new DOMParser().parseFromString(text.slice(text.indexOf("<body>")), "text/html");
      const [first, word, sentence] = ["first", "word", "sentence"].map((id) => other.getElementById(id));
      $("first").replaceChildren(...Array.from(first.childNodes, (node) => document.importNode(node, true)));
      verdict(word.textContent === "Unknown" ? null : word.textContent === "Fine", sentence.textContent);
    } catch { verdict(null, "The balancer does not answer."); }
  };

  const forget = () => { token = null; storage((kept) => kept.removeItem(KEY)); $("sign-out").hidden = true; };

  const restarted = () => {
    samples = new Map();
    newestSample = 0;
    seen = 0;
    shownEvents = [];
    unfollow();
    notice("Another process runs now: events and charts begin anew.", "");
  };

  const lookBack = async (newest) => {
    const back = await ask(`history?since=${newestSample}`);
    const known = new Set(back.nodes.map((node) => node.node));
    for (const name of samples.keys()) if (!known.has(name) && back.newest > newestSample) samples.delete(name);
    for (const node of back.nodes) {
      const kept = samples.get(node.node) ?? { connections: [], failed: [] };
      kept.connections = [...kept.connections, ...node.connections].slice(-SAMPLES);
      kept.failed = [...kept.failed, ...node.refused.map((refused, at) => refused + node.failures[at])].slice(-SAMPLES);
      samples.set(node.node, kept);
    }
    newestSample = back.newest;
  };

  // ---- events: one tab of a browser follows them and tells the others, since a browser opens only six connections to one host ------

  let seen = 0, shownEvents = [], following = null, leading = false, leaderSeen = 0;
  const me = Math.random();
  const channel = "BroadcastChannel" in window ? new BroadcastChannel("remora-events") : null;
  const say = (kind, more) => channel?.postMessage({ kind, me, ...more });

  const take = (event) => {
    if (event.id <= seen) return;
    seen = event.id;
    shownEvents = [event, ...shownEvents].slice(0, EVENTS_SHOWN);
    showEvents();
    if (state === "shown") { clearTimeout(timer); timer = setTimeout(look, 80); }
  };

  const follow = () => {
    if (following || document.hidden || state !== "shown") return;
    const controller = new AbortController();
    following = controller;
    leading = !channel;
    if (channel) {
      say("who");
      // If nobody answers, this tab follows.
      setTimeout(() => { if (following === controller && Date.now() - leaderSeen > 3500) lead(controller); else if (following === controller) listen(controller); }, 150);
    } else lead(controller);
  };
  const unfollow = () => { following?.abort(); following = null; if (leading) { leading = false; say("left"); } };

  // Another tab follows: what was before is asked for once.
  const listen = async (controller) => {
    try {
      const response = await fetch(`/api/v1/events?follow=false&since=${seen}`, { headers: headers(), cache: "no-store", signal: controller.signal });
      if (response.ok) read(await response.text());
    } catch { /* The next look shows whether the balancer answers. */ }
  };

  const lead = async (controller) => {
    leading = true;
    let pause = 500;
    while (following === controller) {
      let silent;
      const quiet = () => { clearTimeout(silent); silent = setTimeout(() => cut.abort(), EVENTS_SILENT); };
      const cut = new AbortController();
      controller.signal.addEventListener("abort", () => cut.abort(), { once: true });
      try {
        quiet();
        const response = await fetch(`/api/v1/events?since=${seen}`, { headers: headers(), cache: "no-store", signal: cut.signal });
        if (response.status === 401 || response.status === 403) break;
        if (!response.ok) throw new Error();
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          quiet();
          pause = 500;
          text = read(text + value);
        }
      } catch { /* It is asked for again. */ }
      clearTimeout(silent);
      await new Promise((resume) => setTimeout(resume, pause * (0.75 + Math.random() / 2)));
      pause = Math.min(pause * 2, 10000);
    }
  };

  // Takes the events in a text; what is left has not ended.
  const read = (text) => {
    const blocks = text.split("\n\n");
    const rest = blocks.pop();
    for (const block of blocks) {
      const line = block.split("\n").find((line) => line.startsWith("data: "));
      if (!line) continue;
      try {
        const event = JSON.parse(line.slice(6));
        take(event);
        if (leading) say("event", { event, process });
      } catch { /* Cut in the middle: it comes again behind the last one that was whole. */ }
    }
    return rest;
  };

  channel?.addEventListener("message", ({ data }) => {
    if (data.kind === "who") { if (leading) say("leading"); }
    else if (data.kind === "leading") {
      leaderSeen = Date.now();
      if (leading && data.me < me) { leading = false; following?.abort(); following = new AbortController(); }
    } else if (data.kind === "left") { leaderSeen = 0; }
    else if (data.kind === "event" && state === "shown" && data.process === process && data.event.id === seen + 1) take(data.event);
    else if (data.kind === "event" && state === "shown" && data.process === process && data.event.id > seen && following) listen(following);
  });
  if (channel) {
    setInterval(() => {
      if (leading) say("leading");
      else if (following && Date.now() - leaderSeen > 3500) { following.abort(); following = new AbortController(); lead(following); }
    }, 1000);
    addEventListener("pagehide", unfollow);
  }
  document.addEventListener("visibilitychange", () => { if (document.hidden) { unfollow(); return; } look(); lookAtList(); });

  // ---- confirmation and changes ---------------------------------------------------------------------------------------------------

  const confirmed = (heading, text, yes, field) => new Promise((resolve) => {
    const dialog = $("ask"), number = $("ask-number");
    put($("ask-heading"), heading);
    put($("ask-text"), text);
    put($("ask-yes"), yes);
    $("ask-field").hidden = !field;
    put($("ask-label"), field?.label ?? "");
    fields(number, { min: field?.min ?? null, max: field?.max ?? null, required: field?.required ?? false });
    number.value = field?.value ?? "";
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => {
      const given = field && number.value !== "" ? Number(number.value) : null;
      resolve(dialog.returnValue === "yes" ? { number: given } : null);
    }, { once: true });
    dialog.showModal();
  });
  $("ask-no").addEventListener("click", () => $("ask").close("no"));
  const change = async (done, path, body) => {
    try {
      const answer = await ask(path, body ?? {});
      notice(typeof done === "function" ? done(answer) : done, "done");
      await look();
      return answer;
    } catch (error) {
      notice(`Nothing was changed: ${error.message}`, "failed");
      if (error.status === 401) missed(error);
      return null;
    }
  };
  const nodePath = (name, what) => `nodes/${encoded(name)}/${what}`;

  const drain = async (node) => {
    const field = { label: "Close its connections, so many per second (empty: they stay):", min: 1, max: 1000000 };
    const yes = await confirmed(`Drain ${node.node}?`, `It gets no new clients. It has ${counted(node.connections, "connection")}.`, "Drain", field);
    if (yes) await change(`${node.node} drains.`, nodePath(node.node, "drain"), { rate: yes.number });
  };
  const undrain = async (node) => {
    const yes = await confirmed(`Undrain ${node.node}?`, "It gets new clients again, and no more of its connections are closed.", "Undrain");
    if (yes) await change(`${node.node} takes clients again.`, nodePath(node.node, "undrain"));
  };
  const weigh = async (node) => {
    const field = { label: `Weight, 1 to 1000 (empty: that of the file, ${node.configured_weight ?? "–"}):`, min: 1, max: 1000, value: node.weight };
    const yes = await confirmed(`Weight of ${node.node}`, "No connection moves; clients that connect go by the new shares.", "Set it", field);
    if (yes) await change(`${node.node} has its new weight.`, nodePath(node.node, "weight"), { weight: yes.number });
  };
  $("rebalance").addEventListener("click", async () => {
    const field = { label: "Connections closed per second:", min: 1, max: 1000000, value: 50, required: true };
    const yes = await confirmed("Bring clients home?", "The connections of clients that are not on their home are closed, those at rest first; they come home when they reconnect.", "Bring them home", field);
    if (yes) await change((answer) => `${counted(answer.selected, "connection")} to close.`, "rebalance", { rate: yes.number });
  });
  $("rebalance-stop").addEventListener("click", () => change("The rebalance is stopped.", "rebalance/stop"));

  // ---- figures and nodes ----------------------------------------------------------------------------------------------------------

  const figures = new Map();
  const figure = (name, value, isBad) => {
    if (!figures.has(name)) {
      const dd = make("dd"), div = make("div", {}, make("dt", {}, name), dd);
      figures.set(name, { dd, div });
      $("figures").append(div);
    }
    const { dd, div } = figures.get(name);
    put(dd, value);
    div.className = isBad ? "bad" : "";
  };

  const show = () => {
    const { status, nodes } = overview;
    verdict(overview.is_fine, overview.sentence);
    const sum = (of) => nodes.reduce((all, node) => all + of(node), 0);
    figure("Connections", n(status.connections));
    figure("CONNECT/s", rate(sum((node) => node.connects_per_second)));
    const failures = sum((node) => node.recent.failures), refused = sum((node) => node.recent.refused);
    figure("Refused, 10 min", n(refused), refused > 0);
    figure("Failures, 10 min", n(failures), failures > 0);
    figure("Awaiting CONNECT", n(status.awaiting_connect));
    figure("TLS handshakes", n(status.handshakes));
    figure("Placements", n(status.placements));
    figure("Running for", span(overview.seconds));
    put($("where"), `${location.host} · pid ${status.pid}`);
    put($("about"), `Remora ${status.version}${status.configuration ? ` · ${status.configuration}` : ""} · ring ${overview.ring}`);
    $("sign-out").hidden = token === null;
    showNodes();
    showRing();
    showEnds();
    showListeners();
    showRebalance();
    showEvents();
    showExamination();
  };

  const cards = new Map();
  const makeCard = (name) => {
    const parts = { node: null };
    const value = (label) => { const dd = make("dd"); parts[label] = dd; return make("div", {}, make("dt", {}, label), dd); };
    parts.mark = make("span");
    parts.why = make("ul", { class: "why" });
    parts.part = make("i");
    parts.load = make("div", { class: "load", role: "img" }, parts.part, make("b"));
    parts.codes = make("p", { class: "codes" });
    parts.under = draw("polygon", { class: "under" });
    parts.line = draw("polyline", { class: "line" });
    parts.bars = draw("path", { class: "bad-bars" });
    parts.svg = draw("svg", { viewBox: "0 0 119 32", preserveAspectRatio: "none", role: "img" }, parts.under, parts.line, parts.bars);
    parts.drain = make("button", { type: "button", click: () => (parts.node.is_draining ? undrain(parts.node) : drain(parts.node)) });
    parts.weight = make("button", { type: "button", click: () => weigh(parts.node) }, "Weight…");
    parts.note = make("span", { class: "hint" });
    parts.card = make("article", { role: "listitem", "aria-label": name },
      make("h3", {}, make("bdi", {}, name), parts.mark), parts.why,
      make("dl", { class: "row" }, value("Clients"), value("CONNECT/s"), value("Refused"), value("Failures")),
      parts.load, parts.svg, parts.codes, make("p", { class: "buttons" }, parts.drain, parts.weight, parts.note));
    return parts;
  };

  const showCard = (parts, node, all) => {
    parts.node = node;
    const of = all > 0 ? node.connections / all : 0;
    const classes = `card ${node.state.replace(" ", "-")}`;
    if (parts.card.className !== classes) parts.card.className = classes;
    put(parts.mark, node.state);
    parts.mark.className = `mark ${node.state.replace(" ", "-")}`;
    const said = node.findings.filter((finding) => finding.verdict !== "up");
    rows(parts.why, [said, node.closing_rate], () => [
      ...said.map((finding) => make("li", { class: finding.verdict === "failing" || finding.verdict === "overruled" ? "bad" : finding.verdict === "draining" ? "wait" : "" },
        `${finding.source}${finding.endpoint ? ` of ${finding.endpoint}` : ""}: ${finding.verdict}${finding.why ? ` (${finding.why})` : ""}`)),
      ...(node.closing_rate ? [make("li", { class: "wait" }, `closing ${counted(node.closing_rate, "connection")} a second`)] : []),
    ]);
    put(parts.Clients, n(node.connections));
    put(parts["CONNECT/s"], rate(node.connects_per_second));
    put(parts.Refused, n(node.recent.refused));
    put(parts.Failures, n(node.recent.failures));
    parts.Refused.className = node.recent.refused > 0 ? "bad" : "";
    parts.Failures.className = node.recent.failures > 0 ? "bad" : "";
    // The bar is as long as twice the share: it ends in the middle if the node has what the ring gives it.
    const scale = node.share ? Math.max(node.share * 2, of) : 1;
    style(style(parts.load, "--part", of / scale), "--share", node.share ? node.share / scale : 0);
    const label = node.share === null ? `${share(of)} of all clients` : `${share(of)} of all clients, ${share(node.share)} of the ring`;
    fields(parts.load, { "aria-label": label, title: label });
    const counted = (list, word) => (list.length ? `${word} ${list.map(({ what, count }) => `${what}: ${n(count)}`).join(" · ")}` : null);
    put(parts.codes, [counted(node.connacks, "CONNACK"), counted(node.failures, "failures")].filter(Boolean).join(" — "));
    put(parts.drain, node.is_draining ? "Undrain…" : "Drain…");
    fields(parts.drain, { "aria-label": `${node.is_draining ? "Undrain" : "Drain"} ${node.node}…` });
    fields(parts.weight, { "aria-label": `Weight… of ${node.node}` });
    for (const button of [parts.drain, parts.weight]) {
      button.disabled = !overview.may_change || node.is_removed;
      button.title = overview.may_change ? "" : "This token may only read.";
    }
    const changed = node.configured_weight !== null && node.configured_weight !== node.weight ? `weight ${node.weight} (file: ${node.configured_weight})` : `weight ${node.weight}`;
    put(parts.note, node.is_removed ? "not in the file any more" : changed);
    showLine(parts, node);
  };

  const showLine = (parts, node) => {
    const { connections, failed } = samples.get(node.node) ?? { connections: [], failed: [] };
    const key = `${newestSample} ${connections.length}`;
    if (parts.drawn === key) return;
    parts.drawn = key;
    const most = Math.max(1, ...connections), from = SAMPLES - connections.length;
    const y = (value) => (30 - (value / most) * 26).toFixed(1);
    const points = connections.map((value, at) => `${from + at},${y(value)}`).join(" ");
    parts.line.setAttribute("points", points);
    parts.under.setAttribute("points", points ? `${from},32 ${points} ${SAMPLES - 1},32` : "");
    const worst = Math.max(1, ...failed);
    parts.bars.setAttribute("d", failed.map((value, at) => (value > 0 ? `M${from + at},32V${(32 - 3 - (value / worst) * 13).toFixed(1)}` : "")).join(""));
    const label = connections.length ? `Clients in the last ten minutes: ${n(Math.min(...connections))} to ${n(most)}` : "No samples yet";
    fields(parts.svg, { "aria-label": label });
  };

  const showNodes = () => {
    const { nodes, status } = overview;
    const all = nodes.reduce((sum, node) => sum + node.connections, 0);
    const many = nodes.length > 12;
    $("cards").classList.toggle("many", nodes.length > 30);
    $("filter-label").hidden = $("only-label").hidden = !many;
    const text = many ? $("filter").value.toLowerCase() : "", only = many && $("only").checked;
    const rank = (node) => ["down", "partly down", "draining", "removed", "up"].indexOf(node.state);
    const shown = nodes.filter((node) => node.node.toLowerCase().includes(text) && !(only && node.state === "up"));
    if (many) shown.sort((a, b) => rank(a) - rank(b));
    put($("nodes-count"), `${n(status.nodes_up.length)} of ${n(status.nodes_up.length + status.nodes_not_up.length)} take clients${shown.length < nodes.length ? ` · ${n(shown.length)} shown` : ""}`);
    const names = new Set(shown.map((node) => node.node));
    for (const [name, { card }] of cards) if (!names.has(name)) { card.remove(); cards.delete(name); }
    shown.forEach((node, at) => {
      if (!cards.has(node.node)) cards.set(node.node, makeCard(node.node));
      const parts = cards.get(node.node);
      showCard(parts, node, all);
      const here = $("cards").children[at];
      // A card is moved only if the order has changed, so that the focus stays.
      if (here !== parts.card) $("cards").insertBefore(parts.card, here ?? null);
    });
  };
  $("filter").addEventListener("input", () => overview && showNodes());
  $("only").addEventListener("change", () => overview && showNodes());

  const showRebalance = () => {
    const { rebalance } = overview;
    $("rebalance").disabled = !overview.may_change;
    $("rebalance-stop").hidden = !rebalance.is_running;
    $("rebalance-stop").disabled = !overview.may_change;
    put($("rebalancing"), rebalance.is_running ? `${n(rebalance.closed)} of ${n(rebalance.selected)} brought home, ${n(rebalance.rate)} a second` : "");
  };

  // ---- ring -----------------------------------------------------------------------------------------------------------------------

  let home = null, shares = null, scrolled = null;
  const showRing = () => {
    const nodes = overview.nodes.filter((node) => node.share !== null);
    const all = overview.nodes.reduce((sum, node) => sum + node.connections, 0);
    const key = JSON.stringify([home, nodes.map(({ node, share, state }) => [node, share, state])]);
    if (shares !== key) {
      shares = key;
      const radius = 72, round = 2 * Math.PI * radius, gap = nodes.length > 1 ? Math.min(2, round / nodes.length / 4) : 0;
      let from = 0;
      const arcs = nodes.map((node, at) => {
        const length = Math.max(node.share * round - gap, 0.4);
        const classes = ["arc", `c${at % 8}`, home && home !== node.node ? "dim" : "", home === node.node ? "home" : "", node.state === "down" ? "off" : ""];
        const arc = draw("circle", { class: classes.filter(Boolean).join(" "), r: radius, "stroke-dasharray": `${length} ${round - length}`, "stroke-dashoffset": -from, transform: "rotate(-90)" },
          draw("title", {}, `${node.node}: ${share(node.share)}`));
        from += node.share * round;
        return arc;
      });
      const of = nodes.find((node) => node.node === home);
      const short = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);
      const middle = of ? [[short(of.node), ""], [`${share(of.share)} of all ids`, "small"]] : [[`${n(nodes.length)}`, ""], [nodes.length === 1 ? "node" : "nodes", "small"]];
      $("ring").replaceChildren(...arcs, ...middle.map(([text, kind], at) => draw("text", { class: kind, y: at * 15 }, text)));
      fields($("ring"), { "aria-label": of ? `This id lands on ${of.node}, which has ${share(of.share)} of the ring` : `The shares of ${counted(nodes.length, "node")}; the table beside it has them as text` });
    }
    const body = $("shares").tBodies[0];
    rows(body, [key, nodes.map((node) => node.connections)], () => nodes.map((node, at) => make("tr", { class: home === node.node ? "home" : null },
      make("td", {}, make("span", { class: `key c${at % 8}` }), make("bdi", {}, node.node)),
      make("td", { class: "n" }, share(node.share)), make("td", { class: "n" }, n(node.connections)), make("td", { class: "n" }, all > 0 ? share(node.connections / all) : "–"))));
    const row = body.querySelector(".home"), scroller = row?.closest(".scroll");
    if (row && key !== scrolled) { scrolled = key; scroller.scrollTop = row.offsetTop - scroller.clientHeight / 2; }
  };

  // ---- one client -----------------------------------------------------------------------------------------------------------------

  const ROUTES = {
    home: "it is at home", placement: "it is remembered there, in place of its home", spill: "its home could not take it",
    full: "its home was full", anonymous: "it has no id: two nodes were drawn, and the one with fewer clients taken",
  };
  const facts = (...pairs) => make("dl", { class: "facts" }, pairs.filter(([, value]) => value != null).map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));

  const findClient = async (target, shown) => {
    try {
      const found = await ask(`clients/${target}`);
      home = found.home;
      if (overview) showRing();
      const parts = found.connections.map((connection) => make("div", { class: "block" }, facts(
        ["Node", make("strong", {}, connection.node)],
        ["Why there", connection.route ? `${connection.route}: ${ROUTES[connection.route] ?? ""}` : "its TLS ends at the node"],
        ["Home", connection.home ?? "–"],
        ["Connected for", span(connection.seconds)],
        ["Address", `${connection.client} at ${connection.listener} (${connection.transport})`],
        ["Bytes", `${bytes(connection.from_client)} from it, ${bytes(connection.from_node)} to it`],
        ["Last sent", `${span(connection.client_silence_seconds)} ago; last message to it ${span(connection.message_silence_seconds)} ago`],
        ["MQTT", [connection.version, connection.keep_alive == null ? null : `Keep Alive ${connection.keep_alive} s`, connection.clean_start == null ? null : connection.clean_start ? "clean start" : "session kept"].filter(Boolean).join(", ") || null],
        ["Certificate", connection.certificate_cn], ["Server name", connection.server_name])));
      if (found.connections.length === 0) parts.push(make("p", {}, found.home ? `Not connected here. It would go to ${found.placement ?? found.home}.` : "Not connected here. Its home depends on more than its id."));
      const end = found.last_end;
      if (end) parts.push(make("p", { class: "hint" }, `Its last connection ended ${span(end.ago_seconds)} ago with cause ${end.cause}, after ${span(end.seconds)}${end.node ? ` on ${end.node}` : ""}.`));
      const buttons = make("p", {}, make("button", {
        type: "button", disabled: found.connections.length === 0 || !overview?.may_change,
        click: async () => {
          const yes = await confirmed("Close this client?", `${found.client_id}: its ${found.connections.length === 1 ? "connection is" : "connections are"} closed. Most clients reconnect at once.`, "Close");
          if (yes && (await change((answer) => `${n(answer.closed)} closed.`, `clients/${target}/close`))) findClient(target, shown);
        },
      }, "Close…"));
      $("client").replaceChildren(make("p", {}, idText(found.client_id)), facts(["Lands on", found.home ? make("strong", {}, found.home) : "depends on more than its id"], ["Remembered on", found.placement]), ...parts, buttons);
    } catch (error) {
      $("client").replaceChildren(make("p", {}, `Not found: ${error.message}`));
    }
  };
  const openClient = (shown) => {
    const target = unescaped(shown);
    $("id").value = shown;
    if (target === null) return listBeginning(shown.slice(0, shown.lastIndexOf("...(")));
    findClient(target, shown);
    $("client").scrollIntoView({ block: "nearest" });
    return null;
  };
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = $("id").value;
    if (typed === "") return;
    const target = unescaped(typed) ?? encoded(typed);
    // The head of a request has 16 KiB: a longer id is looked for by its beginning.
    if (target.length > 12000) listBeginning(typed); else findClient(target, typed);
  });
  $("prefix").addEventListener("click", () => listBeginning($("id").value));

  // ---- lists of clients -----------------------------------------------------------------------------------------------------------

  const idButton = (shown) => (shown === "" ? make("span", { class: "hint" }, "(no id)") : make("button", { class: "link", type: "button", click: () => openClient(shown) }, idText(shown)));
  const CONNECTION = [
    ["Client", (row) => idButton(row.client_id)], ["Node", (row) => row.node], ["Why there", (row) => row.route ?? "–"], ["Home", (row) => row.home ?? "–"],
    ["Address", (row) => row.client], ["Connected", (row) => span(row.seconds), "n"], ["Silent", (row) => span(row.client_silence_seconds), "n"],
    ["No message", (row) => span(row.message_silence_seconds), "n"], ["From it", (row) => bytes(row.from_client), "n"], ["To it", (row) => bytes(row.from_node), "n"],
  ];
  const LOOP = [
    ["Client", (row) => idButton(row.last_end.client_id)], ["Ends in a minute", (row) => n(row.count), "n"], ["Last cause", (row) => row.last_end.cause],
    ["Ago", (row) => span(row.last_end.ago_seconds), "n"], ["Lasted", (row) => span(row.last_end.seconds), "n"], ["Node", (row) => row.last_end.node ?? "–"], ["Address", (row) => row.last_end.client],
  ];
  const LISTS = {
    away: { name: "Off home", about: "Clients on another node than their home.", path: () => "clients?off_home=true", columns: CONNECTION },
    quiet: { name: "Quiet", about: "They send, and their node has sent them nothing but answers to pings: the routing between the nodes may be broken.", path: () => `clients?quiet=${Math.max(1, Number($("quiet").value) || 10) * 60}`, columns: CONNECTION },
    loops: { name: "Reconnecting", about: "At least five connections of one id have ended within the last minute.", path: () => "reconnecting", columns: LOOP },
    twice: { name: "Connected twice", about: "Ids with more than one connection now.", path: () => "connected-twice", columns: CONNECTION },
    all: { name: "All", about: "Clients that are connected.", path: () => "clients?", columns: CONNECTION },
    prefix: { name: "By beginning", about: "", path: () => `clients?prefix=${beginning}`, columns: CONNECTION },
  };
  let list = "away", listed = [], next = null, beginning = "", listing = 0;
  const tabs = new Map();
  for (const [name, { name: label }] of Object.entries(LISTS)) {
    const tab = make("button", { type: "button", role: "tab", "aria-controls": "list", hidden: name === "prefix", click: () => openList(name) }, label);
    tabs.set(name, tab);
    $("tabs").append(tab);
  }
  $("tabs").addEventListener("keydown", (event) => {
    const names = [...tabs.keys()].filter((name) => !tabs.get(name).hidden);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const to = names[(names.indexOf(list) + step + names.length) % names.length];
    openList(to);
    tabs.get(to).focus();
    event.preventDefault();
  });
  const openList = (name) => {
    list = name;
    listed = [];
    next = null;
    for (const [other, tab] of tabs) fields(tab, { "aria-selected": String(other === list), tabindex: other === list ? 0 : -1 });
    $("quiet-label").hidden = list !== "quiet";
    put($("list-about"), LISTS[list].about);
    lookAtList();
  };
  const listBeginning = (typed) => {
    // So many bytes of it count.
    const bytes = utf8.encode(typed).slice(0, 256);
    beginning = percent(bytes);
    LISTS.prefix.about = `Ids that begin with ${typed.length > 60 ? `${typed.slice(0, 60)}…` : typed || "anything"}.`;
    tabs.get("prefix").hidden = false;
    openList("prefix");
    $("list").scrollIntoView({ block: "nearest" });
    return null;
  };
  const lookAtList = async (cursor) => {
    clearTimeout(listing);
    if (state !== "shown") return;
    const { path, columns } = LISTS[list], asked = list;
    try {
      const paged = path().startsWith("clients?");
      const answer = await ask(paged ? `${path()}&limit=${LIST}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}` : path());
      if (asked !== list) return;
      const found = answer.clients ?? answer.reconnecting;
      listed = cursor ? [...listed, ...found] : found.slice(0, 1000);
      next = answer.next ?? null;
      const table = $("list").querySelector("table");
      rows(table.tHead, columns.map(([name]) => name), () => [make("tr", {}, columns.map(([name, , kind]) => make("th", { scope: "col", class: kind }, name)))]);
      rows(table.tBodies[0], [asked, listed], () => (listed.length ? listed.map((row) => make("tr", {}, columns.map(([, value, kind]) => make("td", { class: kind }, value(row)))))
        : [make("tr", {}, make("td", { colspan: columns.length, class: "hint" }, "None."))]));
      $("more").hidden = next === null;
      put($("more"), `More (${n(listed.length)} shown)`);
    } catch (error) {
      if (error.status > 0 && error.status !== 401) put($("list-about"), error.message);
    }
    // A list that was paged through stays as it is.
    if (!document.hidden && listed.length <= LIST && state === "shown") listing = setTimeout(lookAtList, LIST_AGAIN);
  };
  $("more").addEventListener("click", () => lookAtList(next));
  $("list-again").addEventListener("click", () => lookAtList());
  $("quiet").addEventListener("change", () => lookAtList());

  // ---- ends, events, listeners, peers ---------------------------------------------------------------------------------------------

  const showEnds = () => {
    const ends = [...overview.ends].sort((a, b) => b.recent - a.recent || b.count - a.count);
    const most = Math.max(1, ...ends.map((end) => end.recent));
    rows($("ends").tBodies[0], ends, () => (ends.length ? ends.map((end) => make("tr", {}, make("td", {}, make("code", {}, end.cause)),
      make("td", { class: "n" }, style(make("span", { class: "part", "aria-hidden": "true" }), "--part", end.recent / most), make("b", {}, n(end.recent))), make("td", { class: "n" }, n(end.count))))
      : [make("tr", {}, make("td", { colspan: 3, class: "hint" }, "No connection has ended yet."))]));
  };

  const KINDS = {
    node_state: (e) => [`${e.node} ${e.endpoint} is ${e.state}${e.why ? `: ${e.why}` : ""}`, e.state === "down"],
    node_wish: (e) => [`${e.node}: weight ${e.weight}${e.is_draining ? ", draining" : ""}`],
    node_added: (e) => [`${e.node} was added`],
    node_removed: (e) => [`${e.node} was removed`],
    reload: (e) => [e.is_in_force ? "configuration reloaded" : `reload failed: ${e.error}`, !e.is_in_force],
    listener_opened: (e) => [`listener ${e.listener} opened at ${e.address}`],
    listener_closed: (e) => [`listener ${e.listener} closed at ${e.address}`],
    drain: (e) => [`the process drains ${counted(e.connections, "connection")}`, true],
    handover: (e) => [e.error ? `handover failed: ${e.error}` : `${e.result === "took" ? "took over" : "handed over"} ${counted(e.moved, "connection")}${e.left ? `, ${n(e.left)} stayed with the old process` : ""}`, !!e.error],
    certificate_expiring: (e) => [`certificate of ${certified(e)} expires in ${counted(e.days, "day")}`, true],
    certificate_expired: (e) => [`certificate of ${certified(e)} has expired`, true],
    storm_begun: (e) => [`storm: ${n(e.connects_per_second)} clients connect per second, usually ${n(e.usual_per_second)}; ${n(e.waiting)} wait`, true],
    storm_ended: (e) => [`the storm is over after ${span(e.seconds)}: ${counted(e.connects, "client")} connected`],
    finding: (e) => [`${e.code}${e.name ? ` ${e.name}` : ""} of ${e.subject}${e.is_begun ? (e.found ? `: ${e.found}` : "") : " is over"}`, e.is_begun],
  };
  const certified = (e) => `${e.listener ?? "this balancer at nodes"} (${e.names.join(", ")})`;
  const eventText = (event) => {
    if (KINDS[event.kind]) return KINDS[event.kind](event);
    // A kind that this page does not know is shown with its fields.
    const { id, timestamp, kind, ...more } = event;
    return [`${kind.replaceAll("_", " ")}: ${Object.entries(more).filter(([, value]) => value != null).map(([name, value]) => `${name} ${value}`).join(", ")}`];
  };
  const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const showEvents = () => rows($("events"), [process, ...shownEvents.map((event) => event.id)], () => (shownEvents.length === 0 ? [make("li", {}, make("span", { class: "hint" }, "Nothing has changed lately."))] : shownEvents.map((event) => {
    const [text, isBad] = eventText(event);
    const at = new Date(event.timestamp);
    return make("li", {}, make("time", { datetime: event.timestamp, title: event.timestamp }, Number.isNaN(at.getTime()) ? event.timestamp : clock.format(at)), make("span", { class: isBad ? "bad" : null }, text));
  })));

  const showListeners = () => rows($("listeners").tBodies[0], overview.listeners, () => overview.listeners.map((listener) => make("tr", {},
    make("td", {}, listener.listener, listener.is_removed ? " (closed)" : ""), make("td", {}, listener.address), make("td", {}, listener.kind),
    make("td", { class: "n" }, n(listener.connections)), make("td", { class: "n" }, n(listener.accepted)))));

  let peersAsked = 0;
  const lookAtPeers = async () => {
    if (Date.now() - peersAsked < LOOK) return;
    peersAsked = Date.now();
    try {
      const { peers, nodes: summed, connections } = await ask("peers");
      $("peers").hidden = peers.length === 0;
      const table = $("peers-table");
      const own = { peer: "this one", is_fine: overview.is_fine, sentence: overview.sentence, connections: overview.status.connections, has_same_ring: true, disagreements: [], nodes: overview.nodes };
      const all = [own, ...peers];
      // Of many nodes, only those that are not up somewhere.
      const isUp = ({ node }) => all.every((peer) => peer.nodes.every((found) => found.node !== node || found.state === "up"));
      const nodes = summed.length <= 12 ? summed : summed.filter((node) => !isUp(node)).slice(0, 12);
      const heads = ["Balancer", "Fine", "Agrees", "Connections", ...nodes.map((node) => node.node)];
      const number = (at) => (at > 2 ? "n" : null);
      rows(table.tHead, heads, () => [make("tr", {}, heads.map((head, at) => make("th", { scope: "col", class: number(at) }, head)))]);
      const of = (peer, name) => peer.nodes.find((node) => node.node === name);
      rows(table.tBodies[0], [all, connections], () => [
        ...all.map((peer) => (peer.error ? make("tr", {}, make("td", {}, peer.peer), make("td", { class: "wide" }, mark("no"), ` ${peer.error}`), ...heads.slice(2).map((_, at) => make("td", { class: number(at + 2) }, "–")))
          : make("tr", {}, make("td", {}, peer.peer), make("td", { title: peer.sentence, class: peer.is_fine ? null : "wide" }, mark(peer.is_fine ? "yes" : "no"), peer.is_fine ? "" : ` ${peer.sentence}`),
            make("td", { class: peer.disagreements.length ? "wide" : null }, peer.disagreements.length ? mark("no") : mark("yes"), peer.disagreements.length ? ` ${peer.disagreements.slice(0, 4).join("; ")}` : ""),
            make("td", { class: "n" }, n(peer.connections)),
            ...nodes.map(({ node }) => { const found = of(peer, node); return make("td", { class: "n" }, found ? [n(found.connections), found.state === "up" ? "" : [" ", mark(found.state)]].flat() : "–"); })))),
        make("tr", { class: "home" }, make("td", {}, "together"), make("td"), make("td"), make("td", { class: "n" }, n(connections)), ...nodes.map((node) => make("td", { class: "n" }, n(node.connections)))),
      ]);
    } catch (error) {
      if (error.status !== 401) put($("peers-heading"), `Balancers side by side: ${error.message}`);
    }
  };

  // What the doctor found last, and whether messages go from each node to each other one.
  const showExamination = () => {
    const seen = overview.examination ?? null, findings = seen?.findings ?? [], nodes = seen?.nodes ?? [];
    $("findings").hidden = findings.length === 0;
    put($("findings").querySelector(".hint"), seen ? `Last examination: ${new Date(seen.at).toLocaleString()}` : "");
    rows($("findings").querySelector("ul"), findings, () => findings.map((finding) => make("li", {},
      make("strong", {}, `${finding.code} ${finding.name}`), `: ${finding.found}. ${finding.advice}`)));
    $("routes").hidden = nodes.length < 2;
    if ($("routes").hidden) return;
    const found = new Map(seen.routes.map((route) => [JSON.stringify([route.from, route.to]), route]));
    rows($("routes").querySelector("thead"), nodes, () => [make("tr", {}, make("th", { scope: "col" }, "From"),
      ...nodes.map((to) => make("th", { scope: "col", class: "n" }, make("bdi", {}, to))))]);
    rows($("routes").querySelector("tbody"), seen.routes, () => nodes.map((from) => make("tr", {},
      make("th", { scope: "row" }, make("bdi", {}, from)),
      ...nodes.map((to) => {
        const route = found.get(JSON.stringify([from, to]));
        if (!route) return make("td", { class: "n" }, "–");
        const part = route.delivered / Math.max(route.sent, 1);
        const time = route.p50_ms === null ? "" : ` ${route.p50_ms.toFixed(1)} ms`;
        return make("td", { class: part < 1 ? "n bad" : "n" }, `${Math.floor(part * 100)} %${time}`);
      }))));
  };

  // ---- the beginning --------------------------------------------------------------------------------------------------------------

  $("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token").value.trim();
    $("token").value = "";
    // A field of a request has no other characters.
    if (!/^[!-~]+$/.test(token)) { token = null; put($("sign-in-why"), "A token is one word of printable ASCII. Nothing was done."); return; }
    storage((kept) => kept.setItem(KEY, token));
    look();
  });
  $("sign-out").addEventListener("click", () => { forget(); look(); });
  openList("away");
  look();
})();
