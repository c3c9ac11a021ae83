// A scene: one look at the memory, as the server told it, and what can be asked of it. No drawing, no words.
//
// A band is one of "overview" (all tokens), "recent" (the newest) and "closeUp" (a few, one by one). The first two come
// as strips of bins: rows[row * nBins + bin] is how much of a bin is held, 0 .. 255; layer il has row rowOf[il].

export const N_CLOSE_UP = 64; // tokens that are shown one by one

const MUCH = 1 / 8; // of the cells, in new tokens a second

export const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// News of the server as a scene; the close-up of the one before stays if it is of the same text.
export function sceneOf(news, before) {
  const strip = ({ first, bin_size, n_bins, rows }) => ({ first, binSize: bin_size, nBins: n_bins, rows: bytes(rows) });
  const isSame = Boolean(before && before.news.model === news.model && before.nSeen <= news.n_seen);
  return {
    news,
    isSame,
    nSeen: news.n_seen,
    nLayer: news.n_layer,
    nHead: news.n_head,
    nRecent: 2 * news.n_ctx,
    nFirstWhole: news.n_first_whole,
    nNewestWhole: news.n_newest_whole,
    rowOf: news.row_of,
    overview: strip(news.overview),
    recent: strip(news.recent),
    closeUp: isSame ? before.closeUp : null,
  };
}

// The bin of a band in which a token is, clamped to what was seen.
export function tokensAt(scene, name, token) {
  const [from] = domain(scene, name);
  const size = name === "closeUp" ? 1 : scene[name].binSize;
  const bounded = Math.max(0, from, Math.min(scene.nSeen - 1, token));
  const first = Math.floor(bounded / size) * size;
  return { band: name, first, last: Math.min(first + size, scene.nSeen), token: bounded };
}

// Tokens [from, to) that a band's left and right end stand for. The newest token is at the right end of the first two.
export function domain(scene, name) {
  if (name === "overview") return [0, scene.nSeen];
  if (name === "recent") return [scene.nSeen - scene.nRecent, scene.nSeen];
  return scene.closeUp ? [scene.closeUp.first, scene.closeUp.first + N_CLOSE_UP] : [0, N_CLOSE_UP];
}

// Which share of a bin is held, over all layers, 0 .. 1; of a single token of the close-up also in how many layers, and
// by how many of all heads.
export function heldOf(scene, name, first) {
  const { nLayer, nHead } = scene;
  let n = 0;
  if (name === "closeUp") {
    const { kept, pieces, first: start } = scene.closeUp;
    let nLayers = 0;
    for (let il = 0; il < nLayer; il++) {
      const nHere = kept[il * pieces.length + first - start];
      n += nHere;
      nLayers += nHere > 0;
    }
    return { share: n / (nLayer * nHead), nLayers, nHeads: n };
  }
  const strip = scene[name];
  const bin = Math.floor((first - strip.first) / strip.binSize);
  for (let il = 0; il < nLayer; il++) n += strip.rows[scene.rowOf[il] * strip.nBins + bin] || 0;
  return { share: n / (255 * nLayer) };
}

// Whether the tokens of a place are among those shown one by one.
export function isInCloseUp({ closeUp }, { first }) {
  return closeUp && first >= closeUp.first && first < closeUp.first + closeUp.pieces.length;
}

// Whether so much happened in `seconds` between two looks that the next one should come soon.
export function changesMuch(before, news, seconds) {
  if (news.n_compactions !== before?.n_compactions) return true;
  return Math.abs(news.n_seen - before.n_seen) >= MUCH * news.n_ctx * seconds;
}

// What the layers let go since the last look, 0 .. 1 [n_layer x n_bins], added to what still glows.
export function dropped(before, now) {
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
