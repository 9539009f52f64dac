// `node --test`: what charts compute.
import assert from "node:assert/strict";
import test from "node:test";
import { endOf, named, parts, said, stacked, steps, within, written } from "../../app/admin/static/js/figures.js";

/** @type {import("../../app/admin/static/js/figures.js").ChartData} */
const CHART = {
  kind: "bars", unit: "count", starts: [0, 3600, 7200], end: 10800, labels: ["00:00", "01:00", "02:00"],
  ticks: ["00", "01", "02"], running: true, here: "/admin/?period=24h", requests: "/admin/requests?user=ann",
  series: [
    { name: "ok", colour: "series-2", values: [3, 0, 1] },
    { name: "failed", colour: "series-1", values: [1, 0, null] },
  ],
};

test("values are written with their units, as pages write them", () => {
  for (const [value, unit, text] of [
    [1234567, "count", "1,234,567"], [20310000000, "usd", "$20.31"], [155000, "usd", "$0.000155"],
    [0, "usd", "$0.00"], [-1500000000, "usd", "-$1.50"], [615000, "usd", "$0.000615"], [850, "ms", "850 ms"],
    [12340, "ms", "12.3 s"], [99.999, "percent", "99.99 %"], [null, "ms", "–"], [undefined, "count", "–"],
  ]) {
    assert.equal(written(value, unit), text);
  }
});

test("rows are stacked, and what is missing adds nothing", () => {
  assert.deepEqual(stacked([[3, 0, 1], [1, 0, null]]), [[3, 0, 1], [4, 0, 1]]);
  assert.deepEqual(stacked([]), []);
});

test("a single failure among thousands is seen, and nothing where there is none", () => {
  const at = (value) => 100 - value / 1000;
  assert.deepEqual(parts([100000, 100000, 100001], at, 2), [
    { top: 0, height: 100 }, { top: 0, height: 0 }, { top: 100 - 100.001, height: 2 },
  ]);
  assert.deepEqual(parts([1, 1], at, 2), [{ top: 98, height: 2 }, { top: 100 - 0.001, height: 0 }]);
  assert.deepEqual(parts([], at, 2), []);
});

test("an axis names as many buckets as there is room for", () => {
  assert.deepEqual(named(4, 400, 76), [0, 1, 2, 3]);
  assert.deepEqual(named(24, 400, 76), [0, 5, 10, 15, 20]);
  assert.deepEqual(named(0, 400, 76), []);
  assert.deepEqual(named(3, 0, 76).at(0), 0);
});

test("the steps of counts are whole", () => {
  assert.ok(steps("count").every(Number.isInteger));
  assert.ok(steps("percent").includes(0.05));
});

test("a bucket's address has its span in the place of the range", () => {
  assert.equal(
    within("/admin/?period=24h&user=ann", 0, 3600),
    "/admin/?user=ann&from=1970-01-01T00%3A00%3A00Z&to=1970-01-01T01%3A00%3A00Z",
  );
  assert.equal(endOf(CHART, 0), 3600);
  assert.equal(endOf(CHART, 2), 10800);
});

test("a bucket is said in words", () => {
  assert.equal(said(CHART, 0), "00:00: ok 3 · failed 1 · all 4");
  assert.equal(said(CHART, 1), "01:00: all 0");
  assert.equal(said(CHART, 2), "02:00 (so far): ok 1");
  assert.equal(said({ ...CHART, kind: "lines", unit: "ms" }, 2), "02:00 (so far): ok 1 ms · failed –");
});
