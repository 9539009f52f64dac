// What the palette asks for, shows, chooses and where it goes.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Palette } from "../../app/admin/static/js/palette.js";
import { Element, Timers, settled } from "./fakes.js";

const HITS = ["ann", "anne", "annie"].map((title) => ({ kind: "user", title, detail: "<b>", url: `/admin/of/${title}` }));

let timers, answers, asked, went, reloads, state, dialog, input, list, palette;

beforeEach(() => {
  timers = new Timers();
  [answers, asked, went, reloads] = [[], [], [], 0];
  state = new Element();
  globalThis.HTMLElement = Element;
  globalThis.Element = Element;
  globalThis.document = { forms: [], getElementById: () => state, createElement: (name) => new Element(name) };
  globalThis.window = {
    setTimeout: timers.setTimeout, clearTimeout: timers.clearTimeout,
    location: { href: "http://weir/admin/", assign: (url) => went.push(url), reload: () => (reloads += 1) },
  };
  globalThis.fetch = (url) => {
    asked.push(url.searchParams.get("find"));
    return new Promise((resolve, reject) => answers.push({ resolve, reject }));
  };
  [dialog, input, list] = [new Element("dialog"), new Element("input"), new Element("ul")];
  dialog.dataset.search = "/admin/search?period=7d";
  input.form = new Element("form");
  palette = new Palette(dialog, input, list);
  palette.listen();
});

const answer = async (place, hits, status = 200) => {
  answers[place].resolve({ status, json: async () => ({ hits }) });
  await settled();
};
const type = (text) => {
  input.value = text;
  input.tell("input");
};
const chosen = () => list.children.map((row) => row.getAttribute("aria-selected")).indexOf("true");

test("what is typed is asked for once it pauses, and an answer that comes late is passed over", async () => {
  type("a");
  type("an");
  assert.deepEqual(timers.waits, [120]);
  timers.fire();
  type("ann");
  timers.fire();
  assert.deepEqual(asked, ["an", "ann"]);
  await answer(1, HITS.slice(0, 1));
  await answer(0, HITS);
  assert.deepEqual([list.children.length, state.textContent], [1, "1 result"]);
  assert.equal(input.attributes["aria-expanded"], "true");
});

test("results are options of text, of which arrows choose one, round and round", async () => {
  type("ann");
  timers.fire();
  await answer(0, HITS);
  assert.deepEqual(list.children.map((row) => row.attributes.role), ["option", "option", "option"]);
  assert.equal(list.children[0].children.find((part) => part.className === "hit-detail").textContent, "<b>");
  assert.equal(chosen(), 0);
  const places = ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"].map((key) => {
    assert.ok(input.tell("keydown", { key }), "the caret stays where it is");
    return chosen();
  });
  assert.deepEqual(places, [1, 2, 0, 2]);
  assert.equal(input.attributes["aria-activedescendant"], "palette-2");
  assert.ok(!input.tell("keydown", { key: "x" }));
});

test("Enter goes to what is chosen: of what is typed now, not of what was found before", async () => {
  type("ann");
  timers.fire();
  await answer(0, HITS);
  type("anne");
  assert.ok(input.form.tell("submit"));
  assert.deepEqual([asked, went], [["ann", "anne"], []]);
  dialog.open = true;
  await answer(1, HITS.slice(1, 2));
  assert.deepEqual([went, dialog.open], [["/admin/of/anne"], false]);
});

test("Enter goes nowhere where nothing is found, and nothing is chosen before anything is typed", async () => {
  palette.open();
  await answer(0, HITS);
  assert.ok(dialog.open && input.isSelected);
  assert.deepEqual([chosen(), input.attributes["aria-activedescendant"]], [-1, undefined]);
  input.form.tell("submit");
  type("zzz");
  timers.fire();
  await answer(1, []);
  assert.deepEqual([state.textContent, input.attributes["aria-expanded"]], ["No results", "false"]);
  input.form.tell("submit");
  await settled();
  assert.deepEqual(went, []);
  palette.open();
  assert.equal(asked.length, 2, "it is open already");
});

test("it says when the proxy cannot be reached, and leads to the login when the session is over", async () => {
  type("ann");
  timers.fire();
  answers[0].reject(new TypeError("no network"));
  await settled();
  assert.equal(state.textContent, "The proxy cannot be reached.");
  type("anne");
  timers.fire();
  await answer(1, [], 401);
  assert.equal(reloads, 1);
});

test("a click beside the dialog closes it, one within it does not", () => {
  dialog.open = true;
  dialog.tell("click", { target: input });
  assert.ok(dialog.open);
  dialog.tell("click");
  assert.ok(!dialog.open);
});
