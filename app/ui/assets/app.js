// Header, welcome, light and dark. Loaded in the page's <head>; the elements come later, with Gradio's components.
(() => {
  "use strict";
  const MIB = 1024 * 1024;
  const WORDS = { empty: "not loaded", idle: "ready", loading: "loading", busy: "working" };
  let isWelcomeAsked = false;

  const theme = localStorage.getItem("lacache-theme");
  const wantsDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

  function setDark(isDark) {
    document.body.classList.toggle("dark", isDark);
  }

  function memory(bytes) {
    return bytes >= 1024 * MIB ? (bytes / 1024 / MIB).toFixed(2) + " GiB" : (bytes / MIB).toFixed(1) + " MiB";
  }

  function show(id, text) {
    const element = document.getElementById(id);
    if (element && element.textContent !== text) element.textContent = text;
  }

  function draw(status) {
    const state = document.getElementById("lc-state");
    if (!state) return;
    state.dataset.state = status.state;
    const waiting = status.n_waiting ? `, ${status.n_waiting} waiting` : "";
    show("lc-state", WORDS[status.state] + waiting);
    show("lc-model", status.model);
    show("lc-budget", status.n_ctx ? `${memory(status.kv_bytes)} memory · ${status.n_ctx.toLocaleString("en")} cells` : "");
    if (status.welcome && !isWelcomeAsked) openWelcome();
    isWelcomeAsked = true;
  }

  function openWelcome() {
    const dialog = document.getElementById("lc-welcome");
    if (!dialog || dialog.open) return;
    dialog.showModal();
    dialog.addEventListener("close", () => fetch("/lacache/welcome", { method: "POST" }), { once: true });
  }

  async function poll() {
    let wait = 1000;
    try {
      if (!document.hidden && document.getElementById("lc-state")) {
        const answer = await fetch("/lacache/status", { cache: "no-store" });
        if (answer.ok) draw(await answer.json());
      }
    } catch {
      show("lc-state", "the app has stopped");
      const state = document.getElementById("lc-state");
      if (state) state.dataset.state = "gone";
      wait = 3000;
    }
    setTimeout(poll, wait);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#lc-theme, #lc-help");
    if (!button) return;
    if (button.id === "lc-help") return openWelcome();
    const isDark = !document.body.classList.contains("dark");
    setDark(isDark);
    localStorage.setItem("lacache-theme", isDark ? "dark" : "light");
  });

  // Gradio puts the page together piece by piece. It is shown when it has stopped moving, so that nothing jumps.
  // Looks are counted, not time, which also passes while the machine is too busy to move anything.
  const N_STILL = 5, LOOK_MS = 40, LONGEST_MS = 15000;
  document.documentElement.classList.add("lc-assembling");

  function shape() {
    return ["lc-main", "lc-side", "chat-log", "memory-panel", "chat-input"].map((id) => {
      const box = document.getElementById(id)?.getBoundingClientRect();
      return box ? [box.left, box.top, box.width, box.height].join() : "";
    });
  }

  function revealWhenStill() {
    const begin = performance.now();
    let last = "", nStill = 0;
    const look = () => {
      const parts = shape(), now = parts.join(";");
      const isLoading = parts.includes("") || !document.querySelector("lacache-memory-map")?.shadowRoot
        || document.querySelector("[data-testid=status-tracker].full .loading");
      nStill = isLoading || now !== last ? 0 : nStill + 1;
      last = now;
      if (nStill < N_STILL && performance.now() - begin < LONGEST_MS) return setTimeout(look, LOOK_MS);
      document.documentElement.classList.remove("lc-assembling");
    };
    look();
  }

  function whenReady(found) {
    if (document.getElementById("lc-header")) return found();
    const observer = new MutationObserver(() => {
      if (!document.getElementById("lc-header")) return;
      observer.disconnect();
      found();
    });
    observer.observe(document.documentElement, { childList: true, subtree: true });
  }

  whenReady(() => {
    if (theme) setDark(wantsDark);
    revealWhenStill();
    poll();
  });
})();
