// The colours of the memory map: how much of a bin a layer holds, in the light and in the dark theme.

// Stops of the scale in OKLab lightness order: how much of a bin a layer holds. One hue family, so it reads in grey too.
const SCALES = {
  dark: { gone: "#20262b", stops: ["#22434b", "#1f6f78", "#2fa79f", "#7fd8b8", "#d2f7dc"], ember: "#ff9a4d", pin: "#c9a6ff" },
  light: { gone: "#eceae4", stops: ["#d3e5e1", "#94c9c4", "#4399a0", "#176577", "#0b3247"], ember: "#e8590c", pin: "#6b3fb5" },
};

export const N_STEPS = 256;
const tables = {};

export function parse(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
}

function toLab(hex) {
  const [r, g, b] = parse(hex).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((c) => Math.round(255 * Math.min(1, Math.max(0, c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055))));
}

// 256 colours for shares 0 .. 255 of a theme, as [r, g, b]; 0 is "gone". Traces are lifted, so that one token in a
// hundred is seen.
export function colours(theme) {
  if (tables[theme]) return tables[theme];
  const { gone, stops } = SCALES[theme];
  const labs = stops.map(toLab);
  const table = [parse(gone).map((c) => Math.round(255 * c))];
  for (let i = 1; i < N_STEPS; i++) {
    const t = (i / (N_STEPS - 1)) ** 0.6 * (labs.length - 1);
    const k = Math.min(labs.length - 2, Math.floor(t));
    table.push(fromLab(labs[k].map((x, j) => x + (labs[k + 1][j] - x) * (t - k))));
  }
  return (tables[theme] = table);
}

export function accents(theme) {
  return SCALES[theme];
}

export function css([r, g, b]) {
  return `rgb(${r} ${g} ${b})`;
}

// What a painter needs beside the scale: the page's own colours and font, from the computed style of the panel.
export function skinOf(theme, style) {
  const isDark = theme === "dark";
  const colour = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  return {
    theme,
    ink: colour("--lc-text", isDark ? "#e7eaec" : "#1d2226"),
    muted: colour("--lc-muted", isDark ? "#a2abb3" : "#586069"),
    surface: colour("--lc-surface", isDark ? "#1a1e21" : "#ffffff"),
    funnel: isDark ? "rgb(160 200 205 / .09)" : "rgb(10 90 100 / .07)",
    font: style.fontFamily || "system-ui",
  };
}
