// Which keys lead where.
import assert from "node:assert/strict";
import { test } from "node:test";

import { letters, next } from "../../app/admin/static/js/keys.js";

test("each place has the first letter of its name that is free", () => {
  const found = letters(["Home", "Usage", "Requests", "Customers", "Upstream", "Settings", "7"]);
  assert.deepEqual([...found], [["h", 0], ["u", 1], ["r", 2], ["c", 3], ["p", 4], ["s", 5]]);
});

test("rows are gone through from either end, and no further", () => {
  assert.deepEqual([next(-1, 3, 1), next(-1, 3, -1), next(0, 3, 1), next(2, 3, 1), next(0, 3, -1)], [0, 2, 1, 2, 0]);
});
