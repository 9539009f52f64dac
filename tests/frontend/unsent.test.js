// What is kept of a form, and how it is filled in again.
import assert from "node:assert/strict";
import { test } from "node:test";

import { fill, isBegun, typed } from "../../app/admin/static/js/unsent.js";

const field = (name, value, more = {}) => ({ name, value, type: "text", autocomplete: "", checked: false, ...more });

test("what was typed is kept, but for secrets and what no person typed", () => {
  const kept = typed([
    field("name", "acme"), field("note", "two\nlines", { type: "textarea" }), field("csrf_token", "x", { type: "hidden" }),
    field("password", "x", { type: "password" }), field("lines", "a|sk-x", { type: "textarea", autocomplete: "off" }),
    field("file", "x", { type: "file" }), field("", "nameless"), field("active", "y", { type: "checkbox", checked: true }),
  ]);
  assert.deepEqual(kept.map(({ name, value, checked }) => [name, value, checked]), [
    ["name", "acme", false], ["note", "two\nlines", false], ["active", "y", true],
  ]);
});

test("fields are filled in again by their names, ticks by what they stand for", () => {
  const kept = typed([
    field("name", "acme"), field("model", "a"), field("model", "b"), field("gone", "x"),
    field("role", "viewer", { type: "radio" }), field("role", "owner", { type: "radio", checked: true }),
    field("active", "y", { type: "checkbox" }),
  ]);
  const form = [
    field("model", ""), field("name", "old"), field("model", ""), field("new", "stays"),
    field("role", "owner", { type: "radio" }), field("role", "viewer", { type: "radio", checked: true }),
    field("active", "y", { type: "checkbox", checked: true }), field("csrf_token", "fresh", { type: "hidden" }),
  ];
  const filled = fill(form, kept);
  assert.deepEqual(form.map(({ value }) => value), ["a", "acme", "b", "stays", "owner", "viewer", "y", "fresh"]);
  assert.deepEqual(form.map(({ checked }) => checked), [false, false, false, false, true, false, false, false]);
  assert.equal(filled.length, 6);
});

test("a form is begun once something in it is not what the page came with", () => {
  const note = field("note", "x", { defaultValue: "x" });
  const tick = field("active", "y", { type: "checkbox", checked: true, defaultValue: "y", defaultChecked: true });
  const form = [note, tick, field("csrf_token", "x", { type: "hidden", defaultValue: "" }), field("role", "owner")];
  assert.equal(isBegun(form), false);
  note.value = "xy";
  assert.equal(isBegun(form), true);
  note.value = "x";
  tick.checked = false;
  assert.equal(isBegun(form), true);
});
