"""How long does a page made with Gradio take from the key to a text on the screen, without any model?

What the page of app_overhead.py adds cannot be less. One text box and one chat; every question begins a new one, and
its answer is there at once. Headless Chromium, as in app_overhead.py; the first questions only warm up.

    python benchmarks/gradio_floor.py --json-out benchmarks/results/2026-01-31-gradio_floor.json
"""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
from app_page import CHROMIUM, chromium
from common import median, parser, report, table

N_WARM = 3
PAUSE_MS = 300  # the event before is over
_WATCH = """(word) => { window.lacacheTime = new Promise((done) => {
  const log = document.querySelector('#chat-log');
  let start = 0;
  document.addEventListener('keydown', () => { start = performance.now(); }, { capture: true, once: true });
  const observer = new MutationObserver(() => {
    const texts = log.querySelectorAll('[data-testid=bot]');
    if (!texts.length || !texts[texts.length - 1].innerText.includes(word)) return;
    observer.disconnect();
    done((performance.now() - start) / 1000);
  });
  observer.observe(log, { childList: true, characterData: true, subtree: true });
}); }"""


def answer(text: str) -> Iterator[tuple[str, list[dict]]]:
    """The question at once, and at once an answer that differs from the others."""
    log = [{"role": "user", "content": text}]
    yield "", log
    yield "", [*log, {"role": "assistant", "content": f"answer {text}"}]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=30)
    args = options.parse_args()
    if not CHROMIUM:
        raise SystemExit("Chromium is needed: Debian's package chromium")
    seconds = []
    with gr.Blocks(analytics_enabled=False) as demo:
        log, text = gr.Chatbot(elem_id="chat-log"), gr.Textbox(elem_id="chat-input")
        text.submit(answer, text, [text, log], show_progress="hidden")
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        box = page.locator("#chat-input textarea")
        box.wait_for()
        for i in range(N_WARM + (2 if args.quick else args.rounds)):
            box.fill(f"question {i:03}")
            page.evaluate(_WATCH, f"answer question {i:03}")
            box.press("Enter")
            seconds.append(page.evaluate("window.lacacheTime"))
            page.wait_for_timeout(PAUSE_MS)
    demo.close()
    first_s = median(seconds[N_WARM:])
    table(["", "ms"], [["from the key to the text", f"{1000 * first_s:.0f}"]])
    report("gradio_floor", args, {"gradio": gr.__version__}, {"first_s": first_s, "rounds": seconds[N_WARM:]}, [])


if __name__ == "__main__":
    main()
