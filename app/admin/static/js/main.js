// What every page runs.
import { watchCopying } from "./copy.js";
import { watchKeys } from "./keys.js";
import { watchLive } from "./live.js";
import { watchDialogs, watchMenus } from "./menus.js";
import { watchPalette } from "./palette.js";
import { watchForms } from "./unsent.js";

watchMenus();
watchDialogs();
watchForms();
watchCopying();
watchLive();
watchPalette();
watchKeys();
if (document.querySelector("figure.chart")) {
  const { watchCharts } = await import("./chart.js");
  watchCharts();
}
