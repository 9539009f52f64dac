// What the drivers of Node libraries share: see driving.py. A driver is run as `node DRIVER.mjs ASK NODE_MODULES`.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

export const URL = process.env.WEIR_URL;
export const KEY = process.env.WEIR_KEY;
export const MODEL = process.env.WEIR_MODEL;
export const ENDPOINT = process.env.WEIR_ENDPOINT;
export const PROMPT = process.env.WEIR_PROMPT;
export const QUESTION = [{ role: "user", content: PROMPT }];

export const LOOK = {
  type: "object",
  properties: { query: { type: "string" }, limit: { type: "integer" }, exact: { type: "boolean" } },
  required: ["query"],
};

export function look({ query }) {
  return `${query}: ${readFileSync("note.txt", "utf8").trim()}`;
}

const [ask, place] = process.argv.slice(2);

// The driver lies beside the tests, its packages do not.
export function load(name) {
  return import(pathToFileURL(createRequire(`${place}/`).resolve(name)).href);
}

export async function drive({ plain, streamed, tool }) {
  if (ask !== "streamed" && ask !== "cancel") {
    console.log(await (ask === "plain" ? plain() : tool()));
    return;
  }
  const stop = new AbortController();
  for await (const piece of streamed(stop.signal)) {
    process.stdout.write(piece);
    if (ask === "cancel" && piece) {
      stop.abort();
      console.log("\nstopped");
      return;
    }
  }
  console.log();
}
