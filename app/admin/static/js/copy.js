// Buttons that copy their text. They are hidden where that cannot work.

const SHOWN_MS = 2000;

/** Have every button with `data-copy` copy its text, also those that come later. */
export function watchCopying() {
  if (!navigator.clipboard) return;
  const show = () => {
    for (const button of document.querySelectorAll("button[data-copy][hidden]")) button.removeAttribute("hidden");
  };
  show();
  new MutationObserver(show).observe(document.body, { childList: true, subtree: true });
  document.addEventListener("click", async (event) => {
    const button = event.target instanceof Element ? event.target.closest("button[data-copy]") : null;
    if (!(button instanceof HTMLElement)) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy ?? "");
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, SHOWN_MS);
  });
}
