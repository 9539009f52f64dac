// How a live page keeps to its stream, and what it does where there is none.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Follower, show } from "../../app/admin/static/js/live.js";
import { Element, Timers, settled } from "./fakes.js";

const URL_OF_STREAM = "/admin/live?page=/";

class Stream extends Element {
  static CLOSED = 2;
  static made = [];

  constructor(url) {
    super();
    Object.assign(this, { url, readyState: 1 });
    Stream.made.push(this);
  }

  close() {
    this.readyState = Stream.CLOSED;
  }
}

let timers, reloads, answers, asked, state, parts, follower, now;

beforeEach(() => {
  timers = new Timers();
  [reloads, answers, asked, parts, now] = [0, [], [], {}, 1_000_000];
  Stream.made = [];
  globalThis.document = {
    hidden: false,
    forms: [],
    body: new Element(),
    getElementById: (id) => parts[id] ?? null,
    querySelectorAll: (selector) => Object.values(parts).filter((part) => selector.includes(`"${part.dataset.now}"`)),
  };
  globalThis.window = {
    setTimeout: timers.setTimeout, clearTimeout: timers.clearTimeout, location: { reload: () => (reloads += 1) },
  };
  globalThis.CSS = { escape: (text) => text };
  globalThis.EventSource = Stream;
  globalThis.fetch = async (url, options) => {
    asked.push([url, options.headers]);
    const answer = answers.shift();
    if (!answer) throw new TypeError("no network");
    return { ok: answer.status === 200, json: async () => answer.told, ...answer };
  };
  Date.now = () => now;
  state = new Element();
  follower = new Follower(URL_OF_STREAM, null, state);
});

const close = async () => {
  Stream.made.at(-1).close();
  Stream.made.at(-1).tell("error");
  await settled();
};

test("it listens while the page is in sight, once, and no longer", () => {
  follower.settle();
  follower.settle();
  assert.deepEqual(Stream.made.map(({ url }) => url), [URL_OF_STREAM]);
  assert.ok(document.body.classes.has("is-live"));
  document.hidden = true;
  follower.settle();
  assert.equal(Stream.made[0].readyState, Stream.CLOSED);
  document.hidden = false;
  follower.settle();
  assert.equal(Stream.made.length, 2);
});

test("switched off it says so, and listens to nothing", () => {
  const box = { checked: false };
  follower = new Follower(URL_OF_STREAM, box, state);
  follower.settle();
  assert.deepEqual([Stream.made.length, state.textContent], [0, "Paused."]);
  box.checked = true;
  follower.settle();
  assert.deepEqual([Stream.made.length, state.textContent], [1, ""]);
});

test("figures that are told are shown, in every place, and parts nowhere but in live ones", () => {
  parts.rate = Object.assign(new Element(), { dataset: { now: "perSecond" } });
  parts.still = Object.assign(new Element(), { textContent: "as it was" });
  follower.settle();
  Stream.made[0].tell("now", { data: '{"perSecond": "1.5", "gone": "x"}' });
  assert.equal(parts.rate.textContent, "1.5");
  Stream.made[0].tell("parts", { data: '{"parts": {"still": "<b>new</b>", "nowhere": "x"}}' });
  assert.equal(parts.still.textContent, "as it was");
  show({});
});

test("a stream that only moves from worker to worker worries nobody; one that stays away does", () => {
  follower.settle();
  const [stream] = Stream.made;
  stream.tell("error");
  stream.tell("error");
  assert.deepEqual([timers.waits, state.textContent], [[6000], ""]);
  stream.tell("open");
  assert.deepEqual(timers.waits, []);
  stream.tell("error");
  timers.fire();
  assert.match(state.textContent, /cannot be reached/);
  stream.tell("open");
  assert.equal(state.textContent, "");
});

test("where there is no stream to be had it asks, and tries the stream again after a minute", async () => {
  parts.rate = Object.assign(new Element(), { dataset: { now: "perSecond" } });
  answers = [{ status: 200, told: { now: { perSecond: "2" } } }, { status: 503 }];
  follower.settle();
  await close();
  assert.deepEqual(asked, [[URL_OF_STREAM, { "X-Weir-Live": "1", Accept: "application/json" }]]);
  assert.deepEqual([parts.rate.textContent, timers.waits, state.textContent], ["2", [10_000], ""]);
  timers.fire();
  await settled();
  assert.match(state.textContent, /cannot draw this page/);
  timers.fire();
  await settled();
  assert.match(state.textContent, /cannot be reached/);
  assert.equal(Stream.made.length, 1);
  now += 60_000;
  timers.fire();
  assert.equal(Stream.made.length, 2);
});

test("a session that is over has the page load again, which leads to the login", async () => {
  answers = [{ status: 401 }];
  follower.settle();
  await close();
  assert.deepEqual([reloads, timers.waits], [1, []]);
  follower = new Follower(URL_OF_STREAM, null, state);
  follower.settle();
  Stream.made.at(-1).tell("over");
  assert.equal(reloads, 2);
});

test("a form that somebody has begun stays when the session is over", async () => {
  const field = { name: "note", type: "text", value: "x", defaultValue: "", matches: () => true };
  document.forms = [{ method: "post", elements: [field] }];
  answers = [{ status: 401 }];
  follower.settle();
  await close();
  assert.equal(reloads, 0);
  assert.match(state.textContent, /^Your session has ended/);
  assert.deepEqual(timers.waits, []);
});

test("who hides the page while it asks is asked for nothing more", async () => {
  answers = [{ status: 200, told: {} }];
  follower.settle();
  Stream.made[0].close();
  Stream.made[0].tell("error");
  document.hidden = true;
  follower.settle();
  await settled();
  assert.deepEqual(timers.waits, []);
});
