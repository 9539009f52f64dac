// Draws a chart from the JSON beside it: crosshair, zoom by dragging, a click or Enter leads to the requests.
import uPlot from "../vendor/uPlot.js";
import { endOf, named, parts, said, stacked, steps, within, written } from "./figures.js";

/** @typedef {import("./figures.js").ChartData} ChartData */

const LEAST_HEIGHT = 2;
const LABEL_ROOM = 88;
const LEAST_DRAG = 8;
/** @type {WeakMap<Element, () => void>} */
const drawn = new WeakMap();

/** Draw every chart of the page that is not drawn yet, also those that come later. */
export function watchCharts() {
  const draw = () => {
    for (const figure of document.querySelectorAll("figure.chart")) {
      if (figure instanceof HTMLElement && !drawn.has(figure)) drawn.set(figure, mount(figure));
    }
  };
  draw();
  new MutationObserver(draw).observe(document.body, { childList: true, subtree: true });
}

/**
 * @param {HTMLElement} figure
 * @returns {() => void} What draws it anew.
 */
function mount(figure) {
  const source = figure.querySelector("script[type='application/json']");
  const place = figure.querySelector(".plot");
  const readout = figure.querySelector(".readout");
  if (!source || !(place instanceof HTMLElement) || !readout) return () => {};
  /** @type {ChartData} */
  const chart = JSON.parse(source.textContent ?? "");
  place.hidden = false;
  place.tabIndex = 0;
  /** @type {uPlot | null} */
  let plot = null;
  let width = 0;
  const draw = () => {
    plot?.destroy();
    width = place.clientWidth;
    plot = new uPlot(options(chart, place, readout), data(chart), place);
  };
  draw();
  new ResizeObserver(() => {
    if (place.isConnected && place.clientWidth && place.clientWidth !== width) draw();
  }).observe(place);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => place.isConnected && draw());
  place.addEventListener("keydown", (event) => plot && move(plot, chart, event));
  return draw;
}

/**
 * @param {ChartData} chart
 * @returns {uPlot.AlignedData}
 */
function data(chart) {
  const values = chart.series.map((line) => line.values);
  return [chart.starts.map((_, index) => index), ...(chart.kind === "bars" ? stacked(values) : values)];
}

/**
 * @param {ChartData} chart
 * @param {HTMLElement} place
 * @param {Element} readout
 * @returns {uPlot.Options}
 */
function options(chart, place, readout) {
  const count = chart.starts.length;
  const ink = colour(place, "ink-2-fill");
  const line = colour(place, "line-fill");
  const colours = chart.series.map((one) => colour(place, one.colour));
  const axis = { stroke: ink, font: "12px system-ui, sans-serif", ticks: { show: false } };
  let dragged = false;
  return {
    width: place.clientWidth,
    height: place.clientHeight,
    legend: { show: false },
    padding: [8, 32, 0, 0], // the last name of the axis reaches beyond its bar
    scales: {
      x: { time: false, range: () => [-0.5, count - 0.5] },
      y: { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] },
    },
    series: [
      {},
      ...chart.series.map((one, index) => ({
        label: one.name,
        stroke: colours[index],
        width: 2,
        points: { show: chart.kind === "lines", size: 4, fill: colours[index] },
        ...(chart.kind === "bars" ? { paths: () => null } : {}),
      })),
    ],
    axes: [
      {
        ...axis,
        size: 28,
        grid: { show: false },
        splits: (plot) => named(count, plot.bbox.width / devicePixelRatio, LABEL_ROOM),
        values: (_, splits) => splits.map((index) => chart.ticks[index] ?? ""),
      },
      {
        ...axis,
        size: 64,
        incrs: steps(chart.unit),
        grid: { stroke: line, width: 1 },
        values: (_, splits) => splits.map((value) => written(value, chart.unit)),
      },
    ],
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
    hooks: {
      draw: chart.kind === "bars" ? [(plot) => drawBars(plot, chart, colours)] : [],
      setCursor: [
        (plot) => {
          const index = plot.cursor.idx;
          readout.textContent = index === null || index === undefined ? "" : said(chart, index);
        },
      ],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          if (width < LEAST_DRAG) return;
          dragged = true;
          const first = bucket(plot, left, count);
          const last = bucket(plot, left + width, count);
          location.assign(within(chart.here, chart.starts[first] ?? 0, endOf(chart, last)));
        },
      ],
      ready: [
        (plot) =>
          plot.over.addEventListener("click", () => {
            const index = plot.cursor.idx;
            if (!dragged && index !== null && index !== undefined) open(chart, index);
          }),
      ],
    },
  };
}

/**
 * @param {uPlot} plot
 * @param {number} left
 * @param {number} count
 */
function bucket(plot, left, count) {
  return Math.min(count - 1, Math.max(0, Math.round(plot.posToVal(left, "x"))));
}

/**
 * Go to the requests of a bucket.
 * @param {ChartData} chart
 * @param {number} index
 */
function open(chart, index) {
  location.assign(within(chart.requests, chart.starts[index] ?? 0, endOf(chart, index)));
}

/**
 * Left and right go from bucket to bucket, Enter to its requests.
 * @param {uPlot} plot
 * @param {ChartData} chart
 * @param {KeyboardEvent} event
 */
function move(plot, chart, event) {
  const last = chart.starts.length - 1;
  const now = plot.cursor.idx ?? null;
  /** @type {Record<string, number>} */
  const places = { ArrowLeft: now === null ? last : now - 1, ArrowRight: now === null ? 0 : now + 1, Home: 0, End: last };
  const next = places[event.key];
  if (event.key === "Enter" && now !== null) open(chart, now);
  if (next === undefined) return;
  event.preventDefault();
  const index = Math.min(last, Math.max(0, next));
  plot.setCursor({ left: plot.valToPos(index, "x"), top: 0 });
}

/**
 * Draw stacked bars from below, so that a little of something on top is still seen; that of a bucket that goes on
 * is hatched.
 * @param {uPlot} plot
 * @param {ChartData} chart
 * @param {string[]} colours
 */
function drawBars(plot, chart, colours) {
  const { ctx } = plot;
  const count = chart.starts.length;
  const room = plot.bbox.width / count;
  const width = Math.max(1, Math.min(room * 0.8, 48 * devicePixelRatio));
  ctx.save();
  for (let index = 0; index < count; index += 1) {
    const sums = chart.series.map((_, level) => plot.data[level + 1]?.[index] ?? 0);
    const left = plot.valToPos(index, "x", true) - width / 2;
    const spans = parts(sums, (value) => plot.valToPos(value, "y", true), LEAST_HEIGHT * devicePixelRatio);
    spans.forEach(({ top, height }, level) => {
      const shade = colours[level] ?? "";
      ctx.fillStyle = chart.running && index === count - 1 ? hatched(ctx, shade) : shade;
      if (height) ctx.fillRect(left, top, width, height);
    });
  }
  ctx.restore();
}

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {string} shade
 */
function hatched(ctx, shade) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const brush = tile.getContext("2d");
  if (!brush) return shade;
  brush.strokeStyle = shade;
  brush.lineWidth = 2.5;
  brush.beginPath();
  for (const start of [-8, 0, 8]) {
    brush.moveTo(start, 8);
    brush.lineTo(start + 8, 0);
  }
  brush.stroke();
  return ctx.createPattern(tile, "repeat") ?? shade;
}

/**
 * The colour that a class of the style sheet stands for, in light or dark as the page is.
 * @param {HTMLElement} place
 * @param {string} name
 */
function colour(place, name) {
  const probe = document.createElement("i");
  probe.className = `swatch ${name}`;
  place.append(probe);
  const found = getComputedStyle(probe).backgroundColor;
  probe.remove();
  return found;
}
