// <lacache-memory-map>: the memory panel. Asks the server for news, keeps the latest look at the memory, lets
// memory_draw.js paint it, and tells in words what is under the pointer or the keyboard's cursor.
//
// Asks four times a second while the model works, seldom while it rests, never while the page is hidden.

import { Painter, accents, colours, css, domain, heldOf, hit, layout, tokensAt } from "./memory_draw.js";

const ASSETS = new URL(".", import.meta.url);
const NEWS = "/lacache/memory";
const N_CLOSE_UP = 64; // tokens that are shown one by one
const BUSY_MS = 250;
const IDLE_MS = 1000;
const LOST_MS = 4000;
const FRAME_MS = 125;
const FADE = 0.68; // of the glow is left after each frame
const SAY_MS = 30000; // between two spoken summaries during a long read

const WORDS = { empty: "no model loaded", idle: "resting", loading: "loading the model", busy: "working" };

const MARKUP = `
<link rel="stylesheet" href="${new URL("memory_map.css", ASSETS)}">
<section class="panel" aria-labelledby="title">
  <header><h2 id="title">Memory</h2><span class="state" data-state="empty"></span></header>
  <div id="memory-gauge" class="gauge" role="meter" aria-label="Cells in use" aria-valuemin="0" aria-valuenow="0" aria-valuemax="0">
    <div class="track"><div class="fill"></div></div>
    <div class="numbers"><span class="cells"></span><span class="bytes"></span></div>
  </div>
  <dl>
    <div><dt>tokens seen</dt><dd class="seen">0</dd></div>
    <div><dt>per second</dt><dd class="speed">–</dd></div>
    <div><dt>compactions</dt><dd class="compactions">0</dd></div>
    <div><dt>a full cache</dt><dd class="full">–</dd></div>
  </dl>
  <div class="picture">
    <canvas id="memory-map" role="img" tabindex="0" aria-label="Memory map: nothing has been read yet." aria-describedby="keys"></canvas>
    <div class="tip" role="tooltip" hidden></div>
    <div class="empty"><p><b>Nothing read yet.</b></p><p>Send a message or drop in a document: this picture then shows, while it happens,
      which layers of the model still hold which part of the text. The newest text enters at the right; when the memory is full, what is
      older is thinned, in different layers at different places.</p></div>
  </div>
  <p class="text" aria-hidden="true"></p>
  <p class="story"></p>
  <div class="legend" aria-hidden="true">
    <span class="scale"><i></i><span>nothing</span><span>a trace</span><span>half</span><span>all of it</span></span>
    <span><i class="ember"></i>just let go</span><span><i class="pin"></i>pinned, never thinned</span>
  </div>
  <p id="keys" class="spoken">Arrow keys move a cursor over the picture and read the text there; up and down change the magnification.</p>
  <p class="spoken said" aria-live="polite"></p>
</section>`;

const number = (n) => Math.round(n).toLocaleString();
const mib = (n) => (n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(2)} GiB` : `${(n / 2 ** 20).toFixed(1)} MiB`);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

class MemoryMapElement extends HTMLElement {
  connectedCallback() {
    if (!this.shadowRoot) this.attachShadow({ mode: "open" }).innerHTML = MARKUP;
    this.parts = Object.fromEntries(
      ["state", "gauge", "fill", "cells", "bytes", "seen", "speed", "compactions", "full", "picture", "tip", "empty", "text",
        "story", "said", "legend"].map((name) => [name, this.shadowRoot.querySelector(`.${name}`)]),
    );
    this.canvas = this.shadowRoot.querySelector("canvas");
    this.painter = new Painter(this.canvas);
    this.quiet = matchMedia("(prefers-reduced-motion: reduce)");
    this.life = new AbortController();
    this.revision = 0;
    this.state = "empty";
    this.saidAt = performance.now();
    this.size = new ResizeObserver(() => this.relayout());
    this.size.observe(this.parts.picture);
    this.theme = new MutationObserver(() => this.dress());
    for (const node of [document.documentElement, document.body]) this.theme.observe(node, { attributeFilter: ["class"] });
    const on = (target, name, f) => target.addEventListener(name, f, { signal: this.life.signal });
    on(document, "visibilitychange", () => (document.hidden ? clearTimeout(this.timer) : this.ask()));
    on(this.canvas, "pointermove", (event) => this.point(event));
    on(this.canvas, "pointerdown", (event) => this.point(event));
    on(this.canvas, "pointerleave", () => this.leave());
    on(this.canvas, "blur", () => this.leave());
    on(this.canvas, "keydown", (event) => this.key(event));
    this.dress();
    this.ask();
  }

  disconnectedCallback() {
    this.life.abort();
    this.size.disconnect();
    this.theme.disconnect();
    clearTimeout(this.timer);
    clearTimeout(this.frame);
  }

  // ---- news from the server --------------------------------------------------------------------------------------

  async ask() {
    clearTimeout(this.timer);
    if (this.isAsking || document.hidden) return;
    this.isAsking = true;
    let wait = LOST_MS;
    try {
      const answer = await fetch(`${NEWS}?since=${this.revision}`, { signal: this.life.signal });
      if (answer.status === 200) this.take(await answer.json());
      if (answer.ok) {
        this.tell(answer.headers.get("x-lacache-state") || "idle");
        wait = this.state === "idle" || this.state === "empty" ? IDLE_MS : BUSY_MS;
      }
    } catch (error) {
      if (this.life.signal.aborted) return;
      this.tell("lost");
    } finally {
      this.isAsking = false;
    }
    if (this.life.signal.aborted || document.hidden) return;
    this.timer = setTimeout(() => this.ask(), wait);
  }

  take(news) {
    const before = this.scene;
    this.revision = news.revision;
    const strip = ({ first, bin_size, n_bins, rows }) => ({ first, binSize: bin_size, nBins: n_bins, rows: bytes(rows) });
    const isSame = before && before.news.model === news.model && before.nSeen <= news.n_seen;
    this.scene = {
      news,
      nSeen: news.n_seen,
      nLayer: news.n_layer,
      nHead: news.n_head,
      nRecent: 2 * news.n_ctx,
      nCloseUp: N_CLOSE_UP,
      nFirstWhole: news.n_first_whole,
      nNewestWhole: news.n_newest_whole,
      rowOf: news.row_of,
      overview: strip(news.overview),
      recent: strip(news.recent),
      closeUp: isSame ? before.closeUp : null,
    };
    if (!isSame) this.cursor = null;
    if (isSame && !this.quiet.matches) this.scene.glow = this.dropped(before, this.scene);
    if (!before || before.nLayer !== this.scene.nLayer) this.relayout();
    this.numbers();
    this.look();
    this.paint();
    if (this.scene.glow) this.fade();
  }

  // What the layers let go since the last look, 0 .. 1 [n_layer x n_bins], added to what still glows.
  dropped(before, now) {
    const [old, fresh] = [before.recent, now.recent];
    if (old.binSize !== fresh.binSize || before.nLayer !== now.nLayer) return null;
    const glow = new Float32Array(now.nLayer * fresh.nBins);
    const shift = (fresh.first - old.first) / fresh.binSize;
    let most = 0;
    for (let il = 0; il < now.nLayer; il++) {
      for (let k = 0; k < fresh.nBins && k + shift < old.nBins; k++) {
        if (k + shift < 0) continue;
        const gone = (old.rows[before.rowOf[il] * old.nBins + k + shift] - fresh.rows[now.rowOf[il] * fresh.nBins + k]) / 255;
        const left = before.glow ? before.glow[il * old.nBins + k + shift] : 0;
        const value = Math.min(1, Math.max(left, gone > 0 ? 0.4 + gone : 0));
        glow[il * fresh.nBins + k] = value;
        most = Math.max(most, value);
      }
    }
    return most > 0 ? glow : null;
  }

  fade() {
    clearTimeout(this.frame);
    this.frame = setTimeout(() => {
      const { glow } = this.scene;
      if (!glow || document.hidden) return;
      let most = 0;
      for (let i = 0; i < glow.length; i++) most = Math.max(most, (glow[i] *= FADE));
      if (most < 0.03) this.scene.glow = null;
      this.paint();
      if (this.scene.glow) this.fade();
    }, FRAME_MS);
  }

  // ---- numbers and words -----------------------------------------------------------------------------------------

  tell(state) {
    const wasBusy = this.state === "busy";
    this.state = state;
    this.parts.state.dataset.state = state;
    const speed = this.scene?.news.tokens_per_s;
    const isMoving = state === "busy" && speed > 0;
    this.parts.state.textContent = state === "lost" ? "the program does not answer" : WORDS[state] || state;
    this.parts.speed.textContent = isMoving ? number(speed) : "–";
    const now = performance.now();
    if ((wasBusy && state === "idle") || (state === "busy" && now - this.saidAt > SAY_MS)) {
      this.saidAt = now;
      this.parts.said.textContent = this.story();
    }
  }

  numbers() {
    const { news } = this.scene;
    const set = (part, text) => this.parts[part].textContent !== text && (this.parts[part].textContent = text);
    set("cells", `${number(news.n_cells)} of ${number(news.n_ctx)} cells`);
    set("bytes", `${mib(news.kv_bytes_used)} of ${mib(news.kv_bytes)}`);
    set("seen", number(news.n_seen));
    set("compactions", number(news.n_compactions));
    set("full", news.n_seen ? mib(news.kv_bytes_full) : "–");
    this.parts.fill.style.width = `${(100 * news.n_cells) / news.n_ctx}%`;
    const gauge = this.parts.gauge;
    gauge.ariaValueNow = String(news.n_cells);
    gauge.ariaValueMax = String(news.n_ctx);
    gauge.ariaValueText = `${this.parts.cells.textContent}, ${this.parts.bytes.textContent}`;
    this.parts.empty.hidden = news.n_seen > 0;
    if (!news.n_seen) this.parts.text.replaceChildren();
    const story = this.story();
    set("story", story);
    this.canvas.setAttribute("aria-label", `Memory map. ${story}`);
  }

  story() {
    const news = this.scene?.news;
    if (!news || !news.n_seen) return "Nothing has been read yet.";
    if (news.n_first_whole >= news.n_seen) return `All ${number(news.n_seen)} tokens read so far are held in every layer.`;
    const rest = news.n_traced - news.n_first_whole - news.n_newest_whole;
    const start = news.n_first_whole ? `the first ${number(news.n_first_whole)} and ` : "";
    return (
      `Of ${number(news.n_seen)} tokens read, every layer still holds ${start}the newest ${number(news.n_newest_whole)}; ` +
      `of ${number(Math.max(0, rest))} between them, some layers do.`
    );
  }

  // ---- the cursor ------------------------------------------------------------------------------------------------

  point(event) {
    if (!this.scene?.nSeen) return;
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const at = hit(this.scene, this.at, x, y);
    if (!at || (at.band === "closeUp" && !this.isInCloseUp(at))) return this.leave();
    this.move(at, x);
  }

  isInCloseUp({ first }) {
    const closeUp = this.scene.closeUp;
    return closeUp && first >= closeUp.first && first < closeUp.first + closeUp.pieces.length;
  }

  key(event) {
    if (!this.scene?.nSeen) return;
    const at = this.cursor || tokensAt(this.scene, "recent", this.scene.nSeen - this.scene.nNewestWhole - 1);
    const size = at.last - at.first || 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
    const names = Object.keys(this.at.bands);
    let { band, token } = at;
    if (event.key in steps) token += steps[event.key] * size * (event.shiftKey ? 10 : 1);
    else if (event.key === "Home") token = domain(this.scene, band)[0];
    else if (event.key === "End") token = this.scene.nSeen - 1;
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const k = names.indexOf(band) + (event.key === "ArrowDown" ? 1 : -1);
      band = names[Math.max(0, Math.min(names.length - 1, k))];
    } else if (event.key === "Escape") return this.leave();
    else return;
    event.preventDefault();
    const next = tokensAt(this.scene, band, band === "closeUp" ? Math.max(0, Math.min(this.scene.nSeen - 1, token)) : token);
    this.isSpeaking = true;
    this.move(next, null);
  }

  async move(at, x) {
    this.cursor = at;
    if (at.band !== "closeUp" || !this.isInCloseUp(at)) await this.look();
    if (this.cursor !== at) return;
    this.paint();
    this.tooltip(at, x);
  }

  leave() {
    if (!this.cursor) return;
    this.cursor = null;
    this.parts.tip.hidden = true;
    this.look();
    this.paint();
  }

  // The single tokens around the cursor; without one, where the memory is being thinned now.
  async look() {
    const { scene, cursor } = this;
    if (!scene?.nSeen) return;
    const isAtRest = cursor?.band === "closeUp" && this.isInCloseUp(cursor);
    const middle = cursor ? cursor.token : scene.nSeen - scene.nNewestWhole - N_CLOSE_UP / 4;
    const start = isAtRest ? scene.closeUp.first : Math.round(middle - N_CLOSE_UP / 2);
    const first = Math.max(0, Math.min(scene.nSeen - N_CLOSE_UP, start));
    const last = Math.min(scene.nSeen, first + N_CLOSE_UP);
    this.looking?.abort();
    const looking = (this.looking = new AbortController());
    try {
      const answer = await fetch(`${NEWS}/text?first=${first}&last=${last}`, { signal: looking.signal });
      if (!answer.ok || looking.signal.aborted) return;
      const { first: from, pieces, kept } = await answer.json();
      if (looking.signal.aborted || !pieces.length) return;
      this.scene.closeUp = { first: from, pieces, kept: bytes(kept) };
    } catch {
      return;
    }
    this.read();
    this.paint();
  }

  // The text of the close-up; what fewer layers hold is fainter, what none holds has no ground.
  read() {
    const { closeUp } = this.scene;
    const table = colours(this.skin.theme);
    const spans = [];
    closeUp.pieces.forEach((piece, i) => {
      const { share } = heldOf(this.scene, "closeUp", closeUp.first + i);
      const last = spans[spans.length - 1];
      if (last && last.share === share) last.text += piece;
      else spans.push({ share, text: piece });
    });
    this.parts.text.replaceChildren(
      ...spans.map(({ share, text }) => {
        const span = document.createElement("span");
        span.textContent = text;
        span.className = share ? "kept" : "gone";
        if (share) span.style.setProperty("--held", css(table[Math.ceil(255 * share)]));
        return span;
      }),
    );
  }

  // What is held of the tokens at a place; of a single one in how many layers.
  held(at) {
    const { nLayer, nHead } = this.scene;
    const isOne = at.last - at.first === 1 && this.isInCloseUp(at);
    const { share, nLayers, nHeads } = heldOf(this.scene, isOne ? "closeUp" : at.band, at.first);
    if (isOne) return `kept in ${nLayers} of ${nLayer} layers${nHead > 1 ? `, by ${nHeads} of ${nLayer * nHead} heads` : ""}`;
    if (share === 0 || share === 1) return share ? "all of it kept" : "nothing of it kept";
    return `${Math.max(1, Math.min(99, Math.round(100 * share)))} % kept`;
  }

  tooltip(at, x) {
    const { scene } = this;
    const { closeUp } = scene;
    const range = at.last - at.first > 1 ? `Tokens ${number(at.first)} to ${number(at.last - 1)}` : `Token ${number(at.first)}`;
    const held = this.held(at);
    const text = this.isInCloseUp({ first: at.token })
      ? closeUp.pieces.slice(Math.max(0, at.token - closeUp.first - 8), at.token - closeUp.first + 9).join("").replace(/\s+/g, " ").trim()
      : "";
    const tip = this.parts.tip;
    const [strong, line, quote] = ["b", "span", "q"].map((name) => document.createElement(name));
    strong.textContent = range;
    line.textContent = held;
    quote.textContent = text;
    tip.replaceChildren(strong, line, quote);
    tip.hidden = false;
    const band = this.at.bands[at.band];
    const [from, to] = domain(scene, at.band);
    const middle = x ?? band.x + (band.w * ((at.first + at.last) / 2 - from)) / (to - from);
    const left = Math.max(0, Math.min(this.at.width - tip.offsetWidth, middle - tip.offsetWidth / 2));
    const top = at.band === "overview" ? band.y + band.h + 8 : Math.max(0, band.y - tip.offsetHeight - 8);
    tip.style.transform = `translate(${left}px, ${top}px)`;
    if (this.isSpeaking) this.parts.said.textContent = `${range}, ${held}. ${text}`;
    this.isSpeaking = false;
  }

  // ---- looks -----------------------------------------------------------------------------------------------------

  relayout() {
    const width = Math.floor(this.parts.picture.getBoundingClientRect().width);
    if (!width) return;
    this.at = layout(width, this.scene?.nLayer || 30);
    this.canvas.style.height = `${this.at.height}px`;
    this.canvas.style.width = `${this.at.width}px`;
    this.paint();
  }

  dress() {
    const isDark = document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");
    const theme = isDark ? "dark" : "light";
    this.dataset.theme = theme;
    const style = getComputedStyle(this);
    const colour = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
    this.skin = {
      theme,
      ink: colour("--lc-text", isDark ? "#e7eaec" : "#1d2226"),
      muted: colour("--lc-muted", isDark ? "#a2abb3" : "#586069"),
      surface: colour("--lc-surface", isDark ? "#1a1e21" : "#ffffff"),
      funnel: isDark ? "rgb(160 200 205 / .09)" : "rgb(10 90 100 / .07)",
      font: style.fontFamily || "system-ui",
    };
    const table = colours(theme);
    const { ember, pin } = accents(theme);
    const stops = [1, 16, 64, 128, 255].map((share, k) => `${css(table[share])} ${14 + 21.5 * k}%`);
    this.style.setProperty("--scale", `linear-gradient(90deg, ${css(table[0])} 0 14%, ${stops})`);
    this.style.setProperty("--fill", css(table[isDark ? 150 : 190]));
    this.style.setProperty("--ember", ember);
    this.style.setProperty("--pin", pin);
    if (this.scene?.closeUp) this.read();
    this.paint();
  }

  paint() {
    if (this.isPainting || !this.at) return;
    this.isPainting = true;
    requestAnimationFrame(() => {
      this.isPainting = false;
      if (!this.isConnected || !this.at) return;
      const start = performance.now();
      this.painter.resize(this.at, window.devicePixelRatio || 1);
      if (this.scene?.nSeen) this.painter.draw(this.scene, this.at, this.skin, this.cursor);
      else this.painter.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      this.paintedMs = (this.paintedMs || 0) + performance.now() - start; // read by the browser tests
      this.nPainted = (this.nPainted || 0) + 1;
    });
  }
}

if (!customElements.get("lacache-memory-map")) customElements.define("lacache-memory-map", MemoryMapElement);
