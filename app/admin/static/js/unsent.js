// What is typed into a form is not lost when the session has ended in between: it stays in this window, and is filled
// in again once somebody has logged in. Nothing is sent by itself. Passwords, keys and files are not kept.

/**
 * A field as it was left.
 * @typedef {{ name: string, value: string, checked: boolean }} Typed
 *
 * The last form that was sent: which of those with its address, and whether the server said that it was not taken.
 * @typedef {{ action: string, place: number, fields: Typed[], isLost: boolean }} Kept
 *
 * @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Field
 */

const KEPT = "weir.unsent";
const LEFT_OUT = new Set(["password", "file", "hidden", "submit", "button", "image", "reset"]);
const TICKED = new Set(["checkbox", "radio"]);

/**
 * The fields of a form that are kept; those which the browser is not to remember are not.
 * @param {Iterable<Field>} elements
 */
function fieldsOf(elements) {
  return [...elements].filter((field) => field.name && !LEFT_OUT.has(field.type) && field.autocomplete !== "off");
}

/**
 * @param {Iterable<Field>} elements
 * @returns {Typed[]}
 */
export function typed(elements) {
  return fieldsOf(elements).map((field) => ({
    name: field.name,
    value: field.value,
    checked: TICKED.has(field.type) && /** @type {HTMLInputElement} */ (field).checked,
  }));
}

/**
 * Fill in what was typed, as far as the form still has its fields.
 * @param {Iterable<Field>} elements
 * @param {Typed[]} kept
 * @returns {Field[]} those that were filled in
 */
export function fill(elements, kept) {
  const rest = [...kept];
  return fieldsOf(elements).filter((field) => {
    const isTicked = TICKED.has(field.type);
    const place = rest.findIndex((one) => one.name === field.name && (!isTicked || one.value === field.value));
    const [found] = place < 0 ? [] : rest.splice(place, 1);
    if (!found) return false;
    if (isTicked) /** @type {HTMLInputElement} */ (field).checked = found.checked;
    else field.value = found.value;
    return true;
  });
}

/** @param {string} action */
function formsTo(action) {
  return [...document.forms].filter((form) => form.method === "post" && new URL(form.action).pathname === action);
}

/** @param {HTMLFormElement} form */
function elementsOf(form) {
  return /** @type {Field[]} */ ([...form.elements].filter((element) => element.matches("input, select, textarea")));
}

/** @returns {Kept | null} */
function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  } catch {
    return null;
  }
}

/** @param {Kept} found */
function keep(found) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(found));
  } catch {
    // It is too much: then it is lost, as it would be without this.
  }
}

/** @param {Kept} found */
function showAgain(found) {
  const form = formsTo(found.action)[found.place];
  if (!form) return;
  sessionStorage.removeItem(KEPT);
  const filled = fill(elementsOf(form), found.fields);
  for (const field of filled) field.closest("form details")?.setAttribute("open", "");
  const note = document.createElement("p");
  note.className = "note warning";
  note.setAttribute("role", "status");
  note.textContent = "Your session had ended, so this was not sent. What you had typed is filled in again: check it and send it.";
  form.prepend(note);
  for (let around = form.closest("details"); around; around = around.parentElement?.closest("details") ?? null) {
    around.open = true;
  }
  const dialog = form.closest("dialog");
  if (dialog && !dialog.open) dialog.showModal();
  filled[0]?.focus();
}

/**
 * Say whether somebody has typed into one of these fields, or ticked one.
 * @param {Iterable<Field>} elements
 */
export function isBegun(elements) {
  return fieldsOf(elements).some((field) => {
    if (!("defaultValue" in field)) return false; // a choice is quickly made again
    if (TICKED.has(field.type)) return "defaultChecked" in field && field.checked !== field.defaultChecked;
    return field.value !== field.defaultValue;
  });
}

/**
 * Lead to the login, now that the session has ended; but not away from a form that somebody has begun to fill in:
 * that stays, and leads there when it is sent.
 * @returns {string} what to tell them then
 */
export function leaveEndedSession() {
  const begun = [...document.forms].some((form) => form.method === "post" && isBegun(elementsOf(form)));
  if (!begun) window.location.reload();
  return begun ? "Your session has ended. What you have typed is kept: send it to log in again." : "";
}

/** Keep what is sent until it is known that it was taken. */
export function watchForms() {
  const found = kept();
  if (found && document.getElementById("unsent")) keep({ ...found, isLost: true });
  else if (found?.isLost) showAgain(found);
  else sessionStorage.removeItem(KEPT);
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || form.method !== "post" || form.closest(".login")) return;
    const action = new URL(form.action).pathname;
    const fields = typed(elementsOf(form));
    if (fields.length) keep({ action, place: formsTo(action).indexOf(form), fields, isLost: false });
  });
}
