// The page of requests: a request opens in a drawer, and names of users are suggested while one is typed. On a
// record's own page ← → and j k go to the requests beside it. Without it, requests are links.

const isTyping = () => {
  const held = document.activeElement;
  return held instanceof HTMLElement && (held.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(held.tagName));
};

/** @type {Record<string, string>} */
const WAYS = { ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next" };

/** The link that a key stands for, within a record. @param {KeyboardEvent} event @param {ParentNode} record */
const linkFor = (event, record) => {
  const way = WAYS[event.key];
  if (!way || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || isTyping()) return null;
  return /** @type {HTMLAnchorElement | null} */ (record.querySelector(`a[rel="${way}"]`));
};

class Drawer {
  constructor() {
    this.dialog = document.createElement("dialog");
    this.dialog.id = "drawer";
    this.dialog.className = "drawer";
    this.dialog.setAttribute("aria-label", "Request");
    document.body.append(this.dialog);
    this.asked = 0;
    this.dialog.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      if (target === this.dialog || target.closest("[data-close]")) this.dialog.close();
      const link = target.closest("a[rel='prev'], a[rel='next']");
      if (link instanceof HTMLAnchorElement && isPlain(event)) {
        event.preventDefault();
        void this.show(link.href);
      }
    });
    // Before any other listener of the page: while it is open, these keys are its own.
    window.addEventListener(
      "keydown",
      (event) => {
        if (!this.dialog.open || !(event.key in WAYS)) return;
        const link = linkFor(event, this.dialog);
        event.stopImmediatePropagation();
        if (link) {
          event.preventDefault();
          void this.show(link.href);
        }
      },
      true,
    );
    this.dialog.addEventListener("close", () => {
      const row = document.querySelector(`#log [data-id="${CSS.escape(this.dialog.dataset.id ?? "")}"] .record-link`);
      if (row instanceof HTMLElement) row.focus();
    });
  }

  /** Shows the record of a page, or goes to the page where it cannot. @param {string} href */
  async show(href) {
    const number = ++this.asked;
    /** @type {Element | null} */
    let record = null;
    try {
      const answer = await fetch(href, { cache: "no-store" });
      record = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("record");
    } catch {
      record = null;
    }
    if (number !== this.asked) return;
    if (!record) {
      window.location.assign(href);
      return;
    }
    const bar = document.createElement("div");
    bar.className = "buttons drawer-bar";
    const page = document.createElement("a");
    page.href = href;
    page.className = "button";
    page.textContent = "Open as a page";
    const close = document.createElement("button");
    close.type = "button";
    close.dataset.close = "";
    close.textContent = "Close";
    bar.append(page, close);
    this.dialog.dataset.id = /** @type {HTMLElement} */ (record).dataset.id ?? "";
    this.dialog.replaceChildren(bar, document.adoptNode(record));
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    close.focus();
  }
}

/** Whether a click is one that follows the link here, not in another window. @param {MouseEvent} event */
function isPlain(event) {
  return event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
}

/** @param {HTMLInputElement} input */
const suggestUsers = (input) => {
  let asked = 0;
  input.addEventListener("input", async () => {
    const list = input.list;
    const text = input.value.trim();
    const number = ++asked;
    if (!list || !text) return;
    try {
      const answer = await fetch(`${input.dataset.suggest}?text=${encodeURIComponent(text)}`);
      /** @type {string[]} */
      const names = answer.ok ? await answer.json() : [];
      if (number !== asked) return;
      list.replaceChildren(
        ...names.map((name) => {
          const option = document.createElement("option");
          option.value = name;
          return option;
        }),
      );
    } catch {
      // Nothing is suggested then; what is typed is used as it is.
    }
  });
};

for (const input of document.querySelectorAll("input[data-suggest]")) {
  if (input instanceof HTMLInputElement) suggestUsers(input);
}
const log = document.getElementById("log");
if (log) {
  const drawer = new Drawer();
  log.addEventListener("click", (event) => {
    const link = /** @type {Element} */ (event.target).closest("a.record-link");
    if (link instanceof HTMLAnchorElement && isPlain(event)) {
      event.preventDefault();
      void drawer.show(link.href);
    }
  });
} else {
  document.addEventListener("keydown", (event) => {
    const record = document.getElementById("record");
    const link = record && linkFor(event, record);
    if (link) window.location.assign(link.href);
  });
}
