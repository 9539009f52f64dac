// What is shown once is gone when the page is left: a browser may keep the whole page for its way back.
"use strict";
window.addEventListener("pagehide", () => {
  for (const part of document.querySelectorAll("[data-once]")) {
    part.textContent = "It was shown once.";
  }
});
