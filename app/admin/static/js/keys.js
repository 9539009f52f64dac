// Keys for who would rather not use a mouse: `/` finds, `?` says which keys there are, j and k go through the rows
// of a table, g and a letter go to a place. Single keys can be turned off, since some people speak to their machine.

import { isTyping } from "./palette.js";

const KEPT = "weir.keys";
const CHORD_MS = 1500;

/**
 * Give each place a letter: the first of its name that no place before it has.
 * @param {string[]} names
 * @returns {Map<string, number>} letters, and the place each leads to
 */
export function letters(names) {
  const found = new Map();
  names.forEach((name, place) => {
    const letter = [...name.toLowerCase()].find((each) => /[a-z]/.test(each) && !found.has(each));
    if (letter) found.set(letter, place);
  });
  return found;
}

/**
 * Say which row comes next.
 * @param {number} current -1 for none
 * @param {number} count
 * @param {1 | -1} step
 */
export function next(current, count, step) {
  if (current < 0) return step > 0 ? 0 : count - 1;
  return Math.min(count - 1, Math.max(0, current + step));
}

/** The links that stand for rows: the first of each. */
function rows() {
  const links = [];
  for (const row of document.querySelectorAll("main tbody tr")) {
    const link = row.querySelector("a[href]");
    if (link instanceof HTMLElement && link.checkVisibility()) links.push(link);
  }
  return links;
}

/** @param {1 | -1} step */
function move(step) {
  const links = rows();
  const row = document.activeElement?.closest("tr");
  const current = row ? links.findIndex((link) => link.closest("tr") === row) : -1;
  const link = links[next(current, links.length, step)];
  link?.focus();
  link?.scrollIntoView({ block: "nearest" });
}

/** Have keys do what the dialog of keys says. */
export function watchKeys() {
  const help = document.getElementById("keys");
  const places = [...document.querySelectorAll(".rail > nav a[href]")];
  const byLetter = letters(places.map((place) => place.textContent?.trim() ?? ""));
  const switched = document.getElementById("keys-on");
  let isOn = localStorage.getItem(KEPT) !== "off";
  let chordUntil = 0;
  if (switched instanceof HTMLInputElement) {
    switched.checked = isOn;
    switched.addEventListener("change", () => {
      isOn = switched.checked;
      localStorage.setItem(KEPT, isOn ? "on" : "off");
    });
  }
  const list = document.getElementById("keys-places");
  if (list) {
    for (const [letter, place] of byLetter) {
      const key = document.createElement("dt");
      key.textContent = `g ${letter}`;
      const name = document.createElement("dd");
      name.textContent = places[place]?.textContent?.trim() ?? "";
      list.append(key, name);
    }
  }
  for (const opener of document.querySelectorAll("[data-keys]")) {
    if (!(opener instanceof HTMLElement)) continue;
    opener.hidden = false;
    opener.addEventListener("click", () => help instanceof HTMLDialogElement && help.showModal());
  }
  document.addEventListener("keydown", (event) => {
    if (!isOn || event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const key = event.key;
    if (Date.now() < chordUntil) {
      chordUntil = 0;
      const place = byLetter.get(key.toLowerCase());
      const link = place === undefined ? null : places[place];
      if (link instanceof HTMLElement) {
        event.preventDefault();
        link.click();
        return;
      }
    }
    if (key === "g") chordUntil = Date.now() + CHORD_MS;
    else if (key === "j") move(1);
    else if (key === "k") move(-1);
    else if (key === "/") document.dispatchEvent(new Event("weir:palette"));
    else if (key === "?" && help instanceof HTMLDialogElement) help.showModal();
    else return;
    event.preventDefault();
  });
}
