// Live pages. The parts of a page marked `data-live`, and figures marked `data-now`, are told anew by the stream
// that <body data-stream> names, while the page is looked at. Everything else on the page, the focus, what is
// selected and what is typed stay as they are. A switch with the id "live" turns it off and on; the choice is kept.

import { leaveEndedSession } from "./unsent.js";

/** @typedef {{ parts?: Record<string, string>, now?: Record<string, string | boolean> }} Told */

const KEPT = "weir.live";
const POLL_MS = 10_000;
const STREAM_AGAIN_MS = 60_000;
/** A stream that comes back within this was only handed from one worker to the next. */
const PATIENCE_MS = 6_000;

/**
 * What the server has sent for each part last: scripts draw into parts, so that what is shown says less.
 * @type {WeakMap<Element, string>}
 */
const sent = new WeakMap();

/**
 * Find the focused element of a part again after the part was replaced: by its id, or by where it leads.
 * @param {Element} part
 * @returns {string | null} a selector
 */
function mark(part) {
  const held = document.activeElement;
  if (!held || held === part || !part.contains(held)) return null;
  if (held.id) return `#${CSS.escape(held.id)}`;
  const href = held.getAttribute("href");
  return href ? `${held.tagName}[href="${CSS.escape(href)}"]` : null;
}

/**
 * Put what a part looks like now in its place, unless somebody is selecting or typing in it.
 * @param {HTMLElement} part
 * @param {string} html
 */
export function replace(part, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  if (sent.get(part) === fresh.innerHTML) return;
  const selection = document.getSelection();
  if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) return;
  const active = document.activeElement;
  if (active && part.contains(active) && active.matches("input, select, textarea")) return;
  sent.set(part, fresh.innerHTML);
  const held = mark(part);
  const known = new Set([...part.querySelectorAll("[data-id]")].map((row) => row.getAttribute("data-id")));
  const open = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
  const scrolled = [...part.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
  part.replaceChildren(fresh.content);
  part.querySelectorAll(".scroll").forEach((box, place) => {
    const [left, top] = scrolled[place] ?? [0, 0];
    box.scrollTo({ left, top, behavior: "instant" });
  });
  for (const id of open) {
    const details = document.getElementById(id);
    if (details instanceof HTMLDetailsElement) details.open = true;
  }
  for (const row of part.querySelectorAll("[data-id]")) {
    if (known.size && !known.has(row.getAttribute("data-id"))) row.classList.add("fresh");
  }
  const again = held ? part.querySelector(held) : null;
  if (again instanceof HTMLElement) again.focus({ preventScroll: true });
}

/**
 * Show what was told.
 * @param {Told} told
 */
export function show(told) {
  for (const [id, html] of Object.entries(told.parts ?? {})) {
    const part = document.getElementById(id);
    if (part && part.hasAttribute("data-live")) replace(part, html);
  }
  for (const [name, value] of Object.entries(told.now ?? {})) {
    for (const element of document.querySelectorAll(`[data-now="${CSS.escape(name)}"]`)) {
      if (element.textContent !== String(value)) element.textContent = String(value);
    }
  }
}

/** Follows the page's stream, or asks now and then where there is none to be had. */
export class Follower {
  /** @param {string} url @param {HTMLInputElement | null} box @param {HTMLElement | null} state */
  constructor(url, box, state) {
    this.url = url;
    this.box = box;
    this.state = state;
    /** @type {EventSource | null} */
    this.source = null;
    this.timer = 0;
    this.worry = 0;
    this.streamAt = 0;
  }

  get isWanted() {
    return (!this.box || this.box.checked) && !document.hidden;
  }

  /** @param {string} text */
  say(text) {
    if (this.state && this.state.textContent !== text) this.state.textContent = text;
  }

  /** Begin or end, as it is wanted now. */
  settle() {
    if (this.isWanted && !this.source && !this.timer) this.listen();
    if (!this.isWanted) this.stop();
    document.body.classList.toggle("is-live", this.isWanted);
    if (this.box && !this.box.checked) this.say("Paused.");
    else if (this.state?.textContent === "Paused.") this.say("");
  }

  stop() {
    this.source?.close();
    this.source = null;
    window.clearTimeout(this.timer);
    window.clearTimeout(this.worry);
    this.timer = this.worry = 0;
  }

  /** The session is over. */
  end() {
    this.stop();
    this.say(leaveEndedSession());
  }

  listen() {
    const source = (this.source = new EventSource(this.url));
    source.addEventListener("open", () => {
      window.clearTimeout(this.worry);
      this.worry = 0;
      this.say("");
    });
    source.addEventListener("now", (event) => show({ now: JSON.parse(event.data) }));
    source.addEventListener("parts", (event) => show(JSON.parse(event.data)));
    source.addEventListener("over", () => this.end());
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      if (source.readyState === EventSource.CLOSED) {
        // There are windows enough, or the session is over: asking tells which.
        this.source = null;
        this.streamAt = Date.now() + STREAM_AGAIN_MS;
        this.ask();
      } else if (!this.worry) {
        const said = "The proxy cannot be reached. Trying again.";
        this.worry = window.setTimeout(() => this.say(said), PATIENCE_MS);
      }
    });
  }

  async ask() {
    this.timer = -1;
    try {
      const headers = { "X-Weir-Live": "1", Accept: "application/json" };
      const answer = await fetch(this.url, { headers, cache: "no-store" });
      if (answer.status === 401) return this.end();
      if (answer.ok) show(await answer.json());
      this.say(answer.ok ? "" : "The proxy cannot draw this page at the moment.");
    } catch {
      this.say("The proxy cannot be reached. Trying again.");
    }
    if (this.timer !== -1) return; // it was stopped meanwhile
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      if (!this.isWanted) return;
      if (Date.now() >= this.streamAt) this.listen();
      else this.ask();
    }, POLL_MS);
  }
}

/** Follow what the page shows for as long as it is in sight. */
export function watchLive() {
  const url = document.body.dataset.stream;
  if (!url) return;
  for (const part of document.querySelectorAll("[data-live][id]")) sent.set(part, part.innerHTML);
  const found = document.getElementById("live");
  const box = found instanceof HTMLInputElement ? found : null;
  const follower = new Follower(url, box, document.getElementById("live-state"));
  if (box) {
    box.checked = localStorage.getItem(KEPT) !== "off";
    box.disabled = false;
    box.addEventListener("change", () => {
      localStorage.setItem(KEPT, box.checked ? "on" : "off");
      follower.settle();
    });
  }
  document.addEventListener("visibilitychange", () => follower.settle());
  window.addEventListener("pagehide", () => follower.stop());
  window.addEventListener("pageshow", () => follower.settle());
  follower.settle();
}
