// The palette: find anything by what is known of it, or say what is to be done. A result is a link, so nothing
// happens before somebody sends the form it leads to. Without this script the button leads to a page that does
// the same.

import { leaveEndedSession } from "./unsent.js";

/** @typedef {{ kind: string, title: string, detail: string, url: string }} Hit */

const WAIT_MS = 120;

/** @param {EventTarget | null} target */
export function isTyping(target) {
  return (
    target instanceof HTMLElement && (target.isContentEditable || target.matches("input, select, textarea"))
  );
}

/**
 * Make one option of the list.
 * @param {Hit} hit
 * @param {number} place
 */
function option(hit, place) {
  const row = document.createElement("li");
  row.id = `palette-${place}`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", "false");
  row.dataset.url = hit.url;
  for (const [name, text] of Object.entries({ kind: hit.kind, title: hit.title, detail: hit.detail })) {
    const part = document.createElement("span");
    part.className = `hit-${name}`;
    part.textContent = text;
    row.append(part, " ");
  }
  return row;
}

export class Palette {
  /** @param {HTMLDialogElement} dialog @param {HTMLInputElement} input @param {HTMLElement} list */
  constructor(dialog, input, list) {
    this.dialog = dialog;
    this.input = input;
    this.list = list;
    this.state = document.getElementById("palette-state");
    this.chosen = -1;
    this.timer = 0;
    this.asked = 0;
    this.isStale = false;
  }

  open() {
    if (this.dialog.open) return this.input.select();
    this.dialog.showModal();
    this.input.select();
    this.search();
  }

  later() {
    this.isStale = true;
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.search(), WAIT_MS);
  }

  async search() {
    window.clearTimeout(this.timer);
    const number = ++this.asked;
    const url = new URL(this.dialog.dataset.search ?? "", window.location.href);
    url.searchParams.set("find", this.input.value);
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json", "X-Weir-Live": "1" } });
      if (answer.status === 401) return this.say(leaveEndedSession());
      const told = await answer.json();
      if (number === this.asked) this.show(told.hits);
    } catch {
      if (number === this.asked) this.say("The proxy cannot be reached.");
    }
  }

  /** @param {Hit[]} hits */
  show(hits) {
    this.isStale = false;
    this.list.replaceChildren(...hits.map(option));
    this.input.setAttribute("aria-expanded", String(hits.length > 0));
    this.choose(hits.length && this.input.value.trim() ? 0 : -1);
    this.say(hits.length === 1 ? "1 result" : `${hits.length || "No"} results`);
  }

  /** @param {string} text */
  say(text) {
    if (this.state) this.state.textContent = text;
  }

  /** @param {number} place */
  choose(place) {
    const rows = [...this.list.children];
    this.chosen = rows.length ? (place + rows.length) % rows.length : -1;
    if (place < 0 && this.chosen === rows.length - 1 && !this.input.value.trim()) this.chosen = place;
    rows.forEach((row, at) => row.setAttribute("aria-selected", String(at === this.chosen)));
    const row = rows[this.chosen];
    if (row) {
      this.input.setAttribute("aria-activedescendant", row.id);
      row.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  async go() {
    if (this.isStale) await this.search();
    const row = this.list.children[this.chosen];
    if (row instanceof HTMLElement && row.dataset.url) {
      this.dialog.close();
      window.location.assign(row.dataset.url);
    }
  }

  listen() {
    this.input.addEventListener("input", () => this.later());
    this.input.addEventListener("keydown", (event) => {
      const rows = this.list.children.length;
      if (event.key === "ArrowDown") this.choose(this.chosen + 1);
      else if (event.key === "ArrowUp") this.choose(this.chosen < 0 ? rows - 1 : this.chosen + rows - 1);
      else return;
      event.preventDefault();
    });
    this.input.form?.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go();
    });
    this.list.addEventListener("click", (event) => {
      const row = event.target instanceof Element ? event.target.closest("[role=option]") : null;
      if (!row) return;
      this.chosen = [...this.list.children].indexOf(row);
      this.go();
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }
}

/** Open the palette by its keys and its button. */
export function watchPalette() {
  const dialog = document.getElementById("palette");
  const input = document.getElementById("palette-input");
  const list = document.getElementById("palette-list");
  if (!(dialog instanceof HTMLDialogElement && input instanceof HTMLInputElement && list)) return;
  const palette = new Palette(dialog, input, list);
  palette.listen();
  document.addEventListener("keydown", (event) => {
    const isCommand = (event.metaKey || event.ctrlKey) && !event.altKey && event.key.toLowerCase() === "k";
    if (!isCommand) return;
    event.preventDefault();
    palette.open();
  });
  document.addEventListener("weir:palette", () => palette.open());
  for (const opener of document.querySelectorAll("[data-palette]")) {
    opener.addEventListener("click", (event) => {
      event.preventDefault();
      palette.open();
    });
  }
}
