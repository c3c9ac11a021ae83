// Files may be dropped anywhere on the page: they go to the Documents tab, and the browser does not leave the page for
// them. Gradio's own drop box stays as it is.
(() => {
  "use strict";
  const BOX = "doc-drop", LONGEST_MS = 5000;
  let nEntered = 0; // dragenter and dragleave come for every element on the way

  const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const isElsewhere = (event) => !(event.target.closest && event.target.closest("#" + BOX));
  const mark = (isOver) => document.documentElement.classList.toggle("lc-dropping", isOver);

  addEventListener("dragenter", (event) => { if (hasFiles(event)) mark(++nEntered > 0); }, true);
  addEventListener("dragleave", (event) => { if (hasFiles(event)) mark(--nEntered > 0); }, true);
  addEventListener("dragover", (event) => { if (hasFiles(event) && isElsewhere(event)) event.preventDefault(); }, true);
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    nEntered = 0;
    mark(false);
    if (!isElsewhere(event)) return;
    event.preventDefault();
    event.stopPropagation();
    document.getElementById("tab-documents-button")?.click();
    hand(event.dataTransfer.files, performance.now());
  }, true);

  // The box has no input while it shows earlier files; they make room.
  function hand(files, begin) {
    const box = document.getElementById(BOX);
    const input = box?.querySelector('input[type="file"]');
    if (input) {
      input.files = files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    } else if (performance.now() - begin < LONGEST_MS) {
      box?.querySelector('button[aria-label="Clear"]')?.click();
      setTimeout(() => hand(files, begin), 50);
    }
  }
})();
