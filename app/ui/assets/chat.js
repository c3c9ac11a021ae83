// The chat page's own script, run by the hidden component "chat-bridge" with `element`, `trigger`, `watch` and `props`.
// It adds a Delete button to every message, saves exported conversations as files, and keeps the open one in the address.

const log = () => document.getElementById("chat-log");

// ---- Delete: the first press asks, the second deletes ----
const SVG =
  '<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.3">' +
  '<path d="M2.5 4h11M6 4V2.5h4V4M4 4l.6 9.5h6.8L12 4M6.6 6.5v4.6M9.4 6.5v4.6"/></svg>';

function makeButton() {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "lc-remove";
  button.innerHTML = SVG;
  calm(button);
  button.addEventListener("blur", () => calm(button));
  button.addEventListener("click", () => {
    if (!button.dataset.asked) {
      button.dataset.asked = "yes";
      button.setAttribute("aria-label", "Press again to delete this message");
      button.title = "Press again to delete";
      return;
    }
    const index = [...log().querySelectorAll(".message-buttons")].findIndex((panel) => panel.contains(button));
    calm(button);
    trigger("remove", { index });
  });
  return button;
}

function calm(button) {
  delete button.dataset.asked;
  button.setAttribute("aria-label", "Delete message");
  button.title = "Delete message";
}

function decorate() {
  for (const wrapper of log()?.querySelectorAll(".message-buttons .icon-button-wrapper") ?? []) {
    if (!wrapper.querySelector(".lc-remove")) wrapper.append(makeButton());
  }
}

let isDue = false;
new MutationObserver(() => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    decorate();
    address();
  });
}).observe(document.getElementById("tab-chat") ?? document.body, { childList: true, subtree: true });

// ---- the open conversation is in the address, so that a reload finds it ----
function address() {
  const open = document.querySelector("#chat-list nav")?.dataset.open;
  if (open === undefined) return;
  const url = new URL(location.href);
  if ((url.searchParams.get("chat") ?? "") === open) return;
  if (open) url.searchParams.set("chat", open);
  else url.searchParams.delete("chat");
  history.replaceState(history.state, "", url);
}

// ---- export ----
watch("value", () => {
  const file = props.value;
  if (!file || !file.name) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.text], { type: file.type }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

decorate();
