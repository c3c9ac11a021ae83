// The picture of the memory: layers from top to bottom, text from left (old) to right (new), three magnifications.
//
// What it is: pure drawing on one canvas. `layout(width, nLayer)` says where the three bands stand, `Painter.draw` paints
// a scene (memory_scene.js) there, `hit` says which tokens are under a point. What it does not know: the server, the DOM
// around it.

import { N_STEPS, accents, colours, css, parse } from "./memory_colours.js";
import { N_CLOSE_UP, domain, tokensAt } from "./memory_scene.js";

const GUTTER = 24; // px left of the bands, for the numbers of the layers
const LABEL = 16; // px above and below a band, for its axis

// Where the bands stand, in CSS pixels: {width, height, bands: {overview, recent, closeUp: {x, y, w, h}}}.
export function layout(width, nLayer) {
  const w = Math.max(120, width - GUTTER);
  const clamp = (low, x, high) => Math.round(Math.max(low, Math.min(high, x)));
  let y = LABEL;
  const bands = {};
  for (const [name, h, gap] of [
    ["overview", clamp(32, nLayer * 1.2, 48), LABEL + 14],
    ["recent", clamp(120, nLayer * 5, 168), LABEL + 14],
    ["closeUp", clamp(96, nLayer * 4, 136), LABEL],
  ]) {
    bands[name] = { x: GUTTER, y, w, h };
    y += h + gap + (name === "closeUp" ? 0 : LABEL);
  }
  return { width: GUTTER + w, height: y - (LABEL - 4), bands };
}

// Which band and which tokens [first, last) are at x, y; null outside.
export function hit(scene, at, x, y) {
  for (const [name, band] of Object.entries(at.bands)) {
    if (y < band.y - 2 || y > band.y + band.h + 2 || x < band.x || x > band.x + band.w) continue;
    const [from, to] = domain(scene, name);
    const token = Math.floor(from + ((x - band.x) / band.w) * (to - from));
    return tokensAt(scene, name, token);
  }
  return null;
}

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.tile = document.createElement("canvas");
  }

  resize(at, ratio) {
    const [w, h] = [Math.round(at.width * ratio), Math.round(at.height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    this.ratio = ratio;
  }

  // scene: see memory_map.js; look: {theme, ink, muted, surface, font}; cursor: {band, first, last} or null
  draw(scene, at, look, cursor) {
    const g = this.context;
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    g.clearRect(0, 0, at.width, at.height);
    g.font = `11px ${look.font}`;
    const { overview, recent, closeUp } = at.bands;
    this.funnel(scene, overview, recent, domain(scene, "recent"), domain(scene, "overview"), look);
    if (scene.closeUp) this.funnel(scene, recent, closeUp, domain(scene, "closeUp"), domain(scene, "recent"), look);
    this.strip(scene, "overview", overview, look);
    this.strip(scene, "recent", recent, look);
    this.cells(scene, closeUp, look);
    this.pins(scene, at, look);
    this.labels(scene, at, look);
    if (cursor) this.cursor(scene, at, look, cursor);
  }

  strip(scene, name, band, look) {
    const strip = scene[name];
    const g = this.context;
    const [from, to] = domain(scene, name);
    const table = colours(look.theme);
    g.fillStyle = css(table[0]);
    g.fillRect(band.x, band.y, band.w, band.h);
    if (!strip.nBins) return;
    const image = new ImageData(strip.nBins, scene.nLayer);
    const ember = parse(accents(look.theme).ember).map((c) => 255 * c);
    let o = 0;
    for (let il = 0; il < scene.nLayer; il++) {
      const start = scene.rowOf[il] * strip.nBins;
      for (let k = 0; k < strip.nBins; k++, o += 4) {
        const [r, g2, b] = table[strip.rows[start + k]];
        const glow = name === "recent" && scene.glow ? scene.glow[il * strip.nBins + k] : 0;
        image.data[o] = r + (ember[0] - r) * glow;
        image.data[o + 1] = g2 + (ember[1] - g2) * glow;
        image.data[o + 2] = b + (ember[2] - b) * glow;
        image.data[o + 3] = 255;
      }
    }
    const scale = band.w / (to - from);
    const x0 = band.x + (strip.first - from) * scale;
    this.paste(image, band, x0, strip.nBins * strip.binSize * scale, scene.nLayer, look);
  }

  cells(scene, band, look) {
    const g = this.context;
    const table = colours(look.theme);
    g.fillStyle = css(table[0]);
    g.fillRect(band.x, band.y, band.w, band.h);
    if (!scene.closeUp || !scene.closeUp.pieces.length) return;
    const { kept, pieces } = scene.closeUp;
    const n = pieces.length;
    const image = new ImageData(n, scene.nLayer);
    const most = N_STEPS - 1 - 40;
    for (let i = 0; i < n * scene.nLayer; i++) image.data.set([...table[Math.round((most * kept[i]) / scene.nHead)], 255], 4 * i);
    const step = band.w / N_CLOSE_UP;
    this.paste(image, band, band.x, n * step, scene.nLayer, look);
    if (step < 4) return;
    g.fillStyle = look.surface;
    for (let i = 1; i < n; i++) g.fillRect(band.x + i * step - 0.5, band.y, 1, band.h);
  }

  // An image of one pixel per bin and layer, stretched; thin gaps between the layers where there is room for them.
  paste(image, band, x, width, nLayer, look) {
    const g = this.context;
    Object.assign(this.tile, { width: image.width, height: image.height });
    this.tile.getContext("2d").putImageData(image, 0, 0);
    g.save();
    g.beginPath();
    g.rect(band.x, band.y, band.w, band.h);
    g.clip();
    g.imageSmoothingEnabled = false;
    g.drawImage(this.tile, x, band.y, width, band.h);
    const step = band.h / nLayer;
    if (step >= 2.5) {
      g.fillStyle = look.surface;
      for (let il = 1; il < nLayer; il++) g.fillRect(band.x, band.y + il * step - 0.5, band.w, step >= 4 ? 1 : 0.6);
    }
    g.restore();
  }

  // From the part of `upper` that `lower` magnifies down to the whole of `lower`.
  funnel(scene, upper, lower, [from, to], [upperFrom, upperTo], look) {
    if (upperTo <= upperFrom) return;
    const g = this.context;
    const x = (token) => upper.x + (upper.w * (Math.max(upperFrom, Math.min(upperTo, token)) - upperFrom)) / (upperTo - upperFrom);
    const [top, bottom] = [upper.y + upper.h, lower.y];
    g.beginPath();
    g.moveTo(x(from), top);
    g.bezierCurveTo(x(from), top + 24, lower.x, bottom - 24, lower.x, bottom);
    g.lineTo(lower.x + lower.w, bottom);
    g.bezierCurveTo(lower.x + lower.w, bottom - 24, x(to), top + 24, x(to), top);
    g.closePath();
    g.fillStyle = look.funnel;
    g.fill();
    g.strokeStyle = look.muted;
    g.lineWidth = 1;
    g.strokeRect(x(from) + 0.5, upper.y - 1.5, Math.max(2, x(to) - x(from) - 1), upper.h + 3);
  }

  // Bars under the tokens that are never thinned, and under the newest ones, which are whole.
  pins(scene, at, look) {
    if (scene.nFirstWhole >= scene.nSeen) return;
    const g = this.context;
    for (const name of ["overview", "recent", "closeUp"]) {
      const band = at.bands[name];
      const [from, to] = domain(scene, name);
      const x = (token) => band.x + (band.w * (Math.max(from, Math.min(to, token)) - from)) / (to - from);
      const y = band.y + band.h + 2;
      if (from < scene.nFirstWhole) {
        g.fillStyle = accents(look.theme).pin;
        g.fillRect(x(0), y, Math.max(3, x(scene.nFirstWhole) - x(0)), 3);
        if (name !== "closeUp") g.fillRect(x(0), band.y, 2, band.h);
      }
      const start = x(scene.nSeen - scene.nNewestWhole);
      if (name === "recent" && start < band.x + band.w) {
        g.fillStyle = look.ink;
        g.fillRect(start, y, band.x + band.w - start, 1.5);
        g.fillRect(start, y - 1, 1.5, 4);
      }
    }
  }

  labels(scene, at, look) {
    const g = this.context;
    const { overview, recent, closeUp } = at.bands;
    const text = (words, x, y, align, colour) => {
      g.textAlign = align;
      g.fillStyle = colour || look.muted;
      g.fillText(words, x, y);
    };
    const number = (n) => Math.round(n).toLocaleString();
    g.textBaseline = "alphabetic";
    for (const band of [recent, closeUp]) {
      text("1", band.x - 5, band.y + 9, "right");
      text(String(scene.nLayer), band.x - 5, band.y + band.h, "right");
      g.save();
      g.translate(band.x - 8, band.y + band.h / 2);
      g.rotate(-Math.PI / 2);
      text("layer", 0, 0, "center");
      g.restore();
    }
    const right = overview.x + overview.w;
    text("everything read", overview.x, overview.y - 5, "left", look.ink);
    text(`${number(scene.nSeen)} tokens`, right, overview.y - 5, "right");
    const [from] = domain(scene, "recent");
    text(from > 0 ? `the newest ${number(scene.nRecent)}` : "the newest", recent.x, recent.y - 5, "left", look.ink);
    text("now", right, recent.y - 5, "right");
    const below = recent.y + recent.h + 14;
    if (scene.nFirstWhole < scene.nSeen) {
      const start = recent.x + recent.w * (1 - Math.min(1, scene.nNewestWhole / scene.nRecent));
      text("thinned step by step", recent.x, below, "left");
      const whole = `${number(scene.nNewestWhole)} whole`;
      const last = right - g.measureText(whole).width; // a small memory's newest tokens are a narrow strip
      text(whole, Math.min(last, Math.max(start + 4, recent.x + 130)), below, "left", look.ink);
    } else if (scene.nSeen) text("nothing thinned yet", right, below, "right");
    if (scene.closeUp) {
      const first = scene.closeUp.first;
      text("token by token", closeUp.x, closeUp.y - 5, "left", look.ink);
      text(`${number(first)} to ${number(first + scene.closeUp.pieces.length - 1)}`, right, closeUp.y - 5, "right");
    }
  }

  cursor(scene, at, look, { band: name, first, last }) {
    const g = this.context;
    for (const [other, band] of Object.entries(at.bands)) {
      const [from, to] = domain(scene, other);
      if (last <= from || first >= to) continue;
      const x0 = band.x + (band.w * (first - from)) / (to - from);
      const x1 = band.x + (band.w * (last - from)) / (to - from);
      g.strokeStyle = look.ink;
      g.lineWidth = other === name ? 2 : 1;
      g.strokeRect(Math.max(band.x, x0) - 1, band.y - 1, Math.max(2, x1 - Math.max(band.x, x0)) + 2, band.h + 2);
    }
  }
}
