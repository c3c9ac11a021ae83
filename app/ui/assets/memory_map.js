// <lacache-memory-map>: the memory panel. Asks the server for news, keeps the latest look at the memory, lets
// memory_draw.js paint it, and tells in words what is under the pointer or the keyboard's cursor.
//
// Asks four times a second while much changes, once while little does, never while the page is hidden: painting takes
// the cores that the model writes with.

import { accents, colours, css, skinOf } from "./memory_colours.js";
import { Painter, hit, layout } from "./memory_draw.js";
import { MARKUP } from "./memory_markup.js";
import { N_CLOSE_UP, bytes, changesMuch, domain, dropped, heldOf, isInCloseUp, sceneOf, tokensAt } from "./memory_scene.js";
import { WORDS, heldText, mib, number, story } from "./memory_words.js";

const NEWS = "/lacache/memory";
const MOVING_MS = 250;
const CALM_MS = 1000;
const LOST_MS = 4000;
const FRAME_MS = 125;
const FADE = 0.68; // of the glow is left after each frame
const SAY_MS = 30000; // between two spoken summaries during a long read

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
    this.isMoving = false;
    this.takenAt = 0;
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
        wait = this.isMoving && this.state !== "idle" && this.state !== "empty" ? MOVING_MS : CALM_MS;
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
    const now = performance.now();
    this.isMoving = changesMuch(before?.news, news, (now - this.takenAt) / 1000);
    this.takenAt = now;
    this.scene = sceneOf(news, before);
    if (!this.scene.isSame) this.cursor = null;
    else if (!this.quiet.matches) this.scene.glow = dropped(before, this.scene);
    if (!before || before.nLayer !== this.scene.nLayer) this.relayout();
    this.numbers();
    this.look();
    this.paint();
    if (this.scene.glow) this.fade();
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
      this.parts.said.textContent = story(this.scene?.news);
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
    set("story", story(news));
    this.canvas.setAttribute("aria-label", `Memory map. ${story(news)}`);
  }

  // ---- the cursor ------------------------------------------------------------------------------------------------

  point(event) {
    if (!this.scene?.nSeen) return;
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const at = hit(this.scene, this.at, x, y);
    if (!at || (at.band === "closeUp" && !isInCloseUp(this.scene, at))) return this.leave();
    this.move(at, x);
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
    if (at.band !== "closeUp" || !isInCloseUp(this.scene, at)) await this.look();
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
    const isAtRest = cursor?.band === "closeUp" && isInCloseUp(this.scene, cursor);
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

  tooltip(at, x) {
    const { scene } = this;
    const { closeUp } = scene;
    const range = at.last - at.first > 1 ? `Tokens ${number(at.first)} to ${number(at.last - 1)}` : `Token ${number(at.first)}`;
    const held = heldText(scene, at);
    const text = isInCloseUp(this.scene, { first: at.token })
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
    this.skin = skinOf(theme, getComputedStyle(this));
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
