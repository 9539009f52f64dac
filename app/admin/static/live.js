// Draws the parts marked `data-live` anew every few seconds. Everything else on the page, the focus and the
// scroll position stay as they are. <body data-every="10"> says how often; a checkbox with the id "live"
// switches it off and on.
"use strict";
(() => {
  const every = Number(document.body.dataset.every) * 1000;
  if (!every) return;
  const box = document.getElementById("live");
  const state = document.getElementById("live-state");
  const say = (text) => { if (state && state.textContent !== text) state.textContent = text; };
  const on = () => !box || box.checked;

  // The focused element of a part that is replaced is found again by its id, or by where it leads.
  const mark = (part) => {
    const held = document.activeElement;
    if (!held || held === part || !part.contains(held)) return null;
    if (held.id) return "#" + CSS.escape(held.id);
    const href = held.getAttribute("href");
    return href ? `${held.tagName}[href="${CSS.escape(href)}"]` : null;
  };

  const replace = (part, fresh) => {
    if (part.innerHTML === fresh.innerHTML) return;
    if (part.contains(document.getSelection().anchorNode) && !document.getSelection().isCollapsed) return;
    const held = mark(part);
    const known = new Set([...part.querySelectorAll("[data-id]")].map((row) => row.dataset.id));
    const open = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
    part.replaceChildren(...fresh.childNodes);
    for (const id of open) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    for (const row of part.querySelectorAll("[data-id]")) {
      if (known.size && !known.has(row.dataset.id)) row.classList.add("fresh");
    }
    if (held) {
      const again = part.querySelector(held);
      if (again) again.focus({ preventScroll: true });
    }
  };

  const refresh = async () => {
    const answer = await fetch(window.location.href, { headers: { "X-Weir-Live": "1" }, cache: "no-store" });
    if (answer.status === 401) {
      window.location.reload();
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live][id]")) {
      const fresh = page.getElementById(part.id);
      if (fresh) replace(part, fresh);
    }
    say(answer.ok ? "" : "The proxy cannot draw this page at the moment.");
  };

  const tick = async () => {
    if (on() && !document.hidden) {
      try {
        await refresh();
      } catch {
        say("The proxy cannot be reached. Trying again.");
      }
    }
    setTimeout(tick, every);
  };
  if (box) {
    box.disabled = false;
    box.addEventListener("change", () => say(on() ? "" : "Paused."));
  }
  setTimeout(tick, every);
})();
