// Menus close when something else is clicked, on Escape, and when another one opens; forms open as dialogs.

/** Have menus behave as people expect of them. */
export function watchMenus() {
  /** @param {Element | null} but */
  const close = (but) => {
    for (const menu of document.querySelectorAll("details.menu[open], details.confirm[open]")) {
      if (menu !== but) menu.removeAttribute("open");
    }
  };
  document.addEventListener("click", (event) => {
    close(event.target instanceof Element ? event.target.closest("details") : null);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const menu = document.activeElement?.closest("details.menu[open], details.confirm[open]");
    close(null);
    menu?.querySelector("summary")?.focus();
  });
}

/** Show a form that stands behind a button as a dialog: at once when it is filled in, or the address ends in its id. */
export function watchDialogs() {
  for (const details of document.querySelectorAll("details.form-dialog")) {
    if (details instanceof HTMLDetailsElement) makeDialog(details);
  }
  window.addEventListener("hashchange", openNamed);
  openNamed();
}

function openNamed() {
  const named = document.getElementById(window.location.hash.slice(1));
  const dialog = named?.matches("details.form-dialog") ? named.nextElementSibling : null;
  if (dialog instanceof HTMLDialogElement && !document.querySelector("dialog[open]")) show(dialog);
}

/** @param {HTMLDialogElement} dialog */
function show(dialog) {
  dialog.showModal();
  const wrong = dialog.querySelector("[aria-invalid]");
  if (wrong instanceof HTMLElement) wrong.focus();
}

/** @param {HTMLDetailsElement} details */
function makeDialog(details) {
  const body = details.querySelector(".dialog-body");
  const summary = details.querySelector("summary");
  if (!body || !summary) return;
  const dialog = document.createElement("dialog");
  const title = document.createElement("h2");
  title.textContent = summary.textContent;
  title.id = `${details.id}-title`;
  dialog.setAttribute("aria-labelledby", title.id);
  const cancel = document.createElement("button");
  cancel.type = "button";
  cancel.textContent = "Cancel";
  cancel.addEventListener("click", () => dialog.close());
  body.querySelector(".buttons:last-of-type")?.append(cancel);
  dialog.append(title, ...body.childNodes);
  const begins = details.open;
  details.open = false;
  body.replaceWith(dialog);
  details.after(dialog);
  summary.addEventListener("click", (event) => {
    event.preventDefault();
    show(dialog);
  });
  if (begins) show(dialog);
}
