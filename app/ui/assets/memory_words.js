// The words of the memory map: what a scene (memory_scene.js) says to somebody who reads or hears it.

import { heldOf, isInCloseUp } from "./memory_scene.js";

export const WORDS = { empty: "no model loaded", idle: "resting", loading: "loading the model", busy: "working" };

export const number = (n) => Math.round(n).toLocaleString();
export const mib = (n) => (n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(2)} GiB` : `${(n / 2 ** 20).toFixed(1)} MiB`);

// What is held of all that was read.
export function story(news) {
  if (!news || !news.n_seen) return "Nothing has been read yet.";
  if (news.n_first_whole >= news.n_seen) return `All ${number(news.n_seen)} tokens read so far are held in every layer.`;
  const rest = news.n_traced - news.n_first_whole - news.n_newest_whole;
  const start = news.n_first_whole ? `the first ${number(news.n_first_whole)} and ` : "";
  return (
    `Of ${number(news.n_seen)} tokens read, every layer still holds ${start}the newest ${number(news.n_newest_whole)}; ` +
    `of ${number(Math.max(0, rest))} between them, some layers do.`
  );
}

// What is held of the tokens at a place; of a single one in how many layers.
export function heldText(scene, at) {
  const { nLayer, nHead } = scene;
  const isOne = at.last - at.first === 1 && isInCloseUp(scene, at);
  const { share, nLayers, nHeads } = heldOf(scene, isOne ? "closeUp" : at.band, at.first);
  if (isOne) return `kept in ${nLayers} of ${nLayer} layers${nHead > 1 ? `, by ${nHeads} of ${nLayer * nHead} heads` : ""}`;
  if (share === 0 || share === 1) return share ? "all of it kept" : "nothing of it kept";
  return `${Math.max(1, Math.min(99, Math.round(100 * share)))} % kept`;
}
