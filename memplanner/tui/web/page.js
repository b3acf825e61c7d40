"use strict";
// Keys go to the terminal without a click. textual.js marks the body with "-first-byte" when the app draws (before
// that the app would not hear that it has the focus), and with "-closed" when its socket closes.
window.addEventListener("load", () => {
  const keys = document.querySelector(".xterm-helper-textarea");
  const again = document.querySelector("#again");
  let seen = "";
  const follow = () => {
    const marks = document.body.classList;
    const now = marks.contains("-closed") ? "closed" : marks.contains("-first-byte") ? "drawn" : "";
    if (now === seen) return;
    seen = now;
    keys.blur();
    (now === "closed" ? again : keys).focus();
  };
  again.addEventListener("click", () => window.location.reload());
  document.addEventListener("click", () => {
    if (seen !== "closed") keys.focus();
  });
  new MutationObserver(follow).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  follow();
});
