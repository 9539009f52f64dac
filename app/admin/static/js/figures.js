// What charts compute, apart from the page: pure, tested by tests/frontend.

/**
 * A chart as the server sends it. Times are seconds since 1970; money is in nano-dollars.
 * @typedef {object} Line
 * @property {string} name
 * @property {string} colour A class of the style sheet, such as `series-3`.
 * @property {(number | null)[]} values One per bucket.
 *
 * @typedef {object} ChartData
 * @property {"bars" | "lines"} kind
 * @property {Unit} unit
 * @property {number[]} starts When each bucket begins.
 * @property {number} end When the last one ends.
 * @property {string[]} labels Each bucket in full.
 * @property {string[]} ticks Each bucket as the axis calls it.
 * @property {boolean} running Whether the last bucket goes on.
 * @property {string} here The page, to zoom.
 * @property {string} requests Where a bucket's requests are.
 * @property {Line[]} series
 *
 * @typedef {"count" | "usd" | "ms" | "percent"} Unit
 */

const NANO = 1e9;
const NOTHING = "–";
const LARGEST_STEP = 15;

/**
 * Write a value with its unit, as pages do.
 * @param {number | null | undefined} value
 * @param {Unit} unit
 */
export function written(value, unit) {
  if (value === null || value === undefined) return NOTHING;
  if (unit === "usd") return dollars(value / NANO);
  if (unit === "ms") return value < 1000 ? `${Math.round(value)} ms` : `${trimmed(value / 1000, 1)} s`;
  if (unit === "percent") return `${trimmed(Math.floor(value * 100) / 100, 2)} %`;
  return value.toLocaleString("en-US");
}

/** @param {number} amount */
function dollars(amount) {
  const small = Math.abs(amount);
  const digits = small === 0 || small >= 1 ? 2 : Math.min(9, 3 - Math.floor(Math.log10(small)));
  const [whole, cents = ""] = small.toFixed(digits).split(".");
  const rest = cents.slice(2).replace(/0+$/, "");
  return `${amount < 0 ? "-" : ""}$${Number(whole).toLocaleString("en-US")}.${cents.slice(0, 2)}${rest}`;
}

/**
 * @param {number} value
 * @param {number} digits
 */
function trimmed(value, digits) {
  return String(Number(value.toFixed(digits)));
}

/**
 * Put rows on top of each other: each becomes the sum of itself and those before it.
 * @param {(number | null)[][]} rows
 * @returns {number[][]}
 */
export function stacked(rows) {
  /** @type {number[]} */
  let below = [];
  return rows.map((row) => {
    const base = below;
    below = row.map((value, index) => (base[index] ?? 0) + (value ?? 0));
    return below;
  });
}

/**
 * Where the parts of a stacked bar are, in pixels from the top. Of what there is little, enough is drawn to be seen.
 * @param {number[]} sums Each part's upper end, from below: what `stacked` says of a bucket.
 * @param {(value: number) => number} at
 * @param {number} least
 * @returns {{ top: number, height: number }[]} Without height: there is none of it.
 */
export function parts(sums, at, least) {
  const floor = at(0);
  return sums.map((sum, level) => {
    const below = sums[level - 1] ?? 0;
    const height = sum > below ? Math.max(least, at(below) - at(sum)) : 0;
    return { top: Math.min(at(sum), floor - height), height };
  });
}

/**
 * Which buckets the axis names, so that names do not touch.
 * @param {number} count
 * @param {number} width In pixels.
 * @param {number} room What a name takes, in pixels.
 */
export function named(count, width, room) {
  const every = Math.max(1, Math.ceil((count * room) / Math.max(1, width)));
  return Array.from({ length: Math.ceil(count / every) }, (_, index) => index * every);
}

/**
 * The steps an axis may take: whole ones for counts.
 * @param {Unit} unit
 */
export function steps(unit) {
  /** @type {number[]} */
  const found = [];
  for (let power = unit === "percent" ? -2 : 0; power <= LARGEST_STEP; power += 1) {
    for (const first of [1, 2, 5]) found.push(first * 10 ** power);
  }
  return found;
}

/**
 * The address of a page for one span of time instead of the range it was asked for.
 * @param {string} address
 * @param {number} from Seconds since 1970.
 * @param {number} to
 */
export function within(address, from, to) {
  const [path, query = ""] = address.split("?");
  const parameters = new URLSearchParams(query);
  parameters.delete("period");
  parameters.set("from", new Date(from * 1000).toISOString().replace(".000", ""));
  parameters.set("to", new Date(to * 1000).toISOString().replace(".000", ""));
  return `${path}?${parameters}`;
}

/**
 * When a bucket ends.
 * @param {ChartData} chart
 * @param {number} index
 */
export function endOf(chart, index) {
  return chart.starts[index + 1] ?? chart.end;
}

/**
 * Say a bucket in words: its time, what there is of each, and all together where that adds up.
 * @param {ChartData} chart
 * @param {number} index
 */
export function said(chart, index) {
  const parts = chart.series
    .filter((line) => chart.kind === "lines" || line.values[index])
    .map((line) => `${line.name} ${written(line.values[index], chart.unit)}`);
  const sum = chart.series.reduce((total, line) => total + (line.values[index] ?? 0), 0);
  if (chart.kind === "bars" && parts.length !== 1) parts.push(`all ${written(sum, chart.unit)}`);
  const running = chart.running && index === chart.starts.length - 1 ? " (so far)" : "";
  return `${chart.labels[index]}${running}: ${parts.join(" · ")}`;
}
