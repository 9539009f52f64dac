// What every page runs.
import { watchCopying } from "./copy.js";
import { watchKeys } from "./keys.js";
import { watchLive } from "./live.js";
import { watchDialogs, watchMenus } from "./menus.js";
import { watchPalette } from "./palette.js";

watchMenus();
watchDialogs();
watchCopying();
watchLive();
watchPalette();
watchKeys();
if (document.querySelector("figure.chart")) {
  const { watchCharts } = await import("./chart.js");
  watchCharts();
}
