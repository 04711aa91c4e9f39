// What every page does with a script: keys, images that come back, and problems that pass.

const typing = (element) => element.closest("input, select, textarea, [contenteditable]") !== null;

// Keys that are a character can be turned off: speech input and shaking hands press them unintended (WCAG 2.1.4).
const keys = document.querySelector(".keys");
const isOff = (key) => key.length === 1 && localStorage.getItem("keys") === "off";
if (keys) {
  const choice = keys.querySelector("input");
  keys.hidden = false;
  choice.checked = !isOff("/");
  choice.addEventListener("change", () => localStorage.setItem("keys", choice.checked ? "on" : "off"));
  document.addEventListener("click", ({ target }) => { if (!keys.contains(target)) keys.open = false; });
}

// An element with data-key="ArrowLeft" is activated, or focused if it is an input, by that key.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || isOff(event.key)) return;
  const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (target?.matches("button") && event.repeat) return; // a key that is held does one thing once
  if (target) {
    event.preventDefault();
    if (target.matches("input, textarea")) target.focus();
    else target.click();
  } else if (document.querySelector("[data-moves]")) {
    move(event);
  }
});

// In a list or grid with data-moves, the arrow keys move the focus between its links, as they are seen.
function move(event) {
  const links = [...document.querySelectorAll("[data-moves] a")];
  const focused = document.activeElement;
  const here = links.indexOf(focused === document.body ? document.querySelector(":target a") : focused);
  const next = nextLink(links, here, event.key);
  if (next === undefined) return;
  event.preventDefault();
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function nextLink(links, here, key) {
  if (key === "ArrowRight" || key === "j") return links[here + 1];
  if (key === "ArrowLeft" || key === "k") return links[here - 1];
  if (key !== "ArrowDown" && key !== "ArrowUp") return undefined;
  if (here < 0) return links[0];
  const box = links[here].getBoundingClientRect();
  const below = key === "ArrowDown";
  const others = below ? links.slice(here + 1) : links.slice(0, here).reverse();
  return others.find((link) => {
    const other = link.getBoundingClientRect();
    return (below ? other.top > box.top : other.top < box.top) && Math.abs(other.left - box.left) < box.width / 2;
  });
}

// What a script has asked for in vain, and asking again does not help.
const REFUSED = {
  401: "Your session has ended. Reload this page to sign in again.",
  403: "This page belongs to another session. Reload it.",
  404: "This no longer exists. It may have been deleted.",
};
document.addEventListener("refused", ({ detail }) => {
  document.querySelector("#notice").textContent = REFUSED[detail] ?? "The console does not answer. Try again.";
});

// S3 may be away for a while: an image that does not arrive is asked for again, a few times.
document.addEventListener("error", (event) => {
  const image = event.target;
  if (!(image instanceof HTMLImageElement)) return;
  const tries = Number(image.dataset.tries ?? 0);
  image.dataset.tries = tries + 1;
  if (tries < 5) setTimeout(() => { image.src = image.src; }, 2 ** tries * 1000);
}, true);

// A page about an outage is replaced by the page that was asked for as soon as that works.
const problem = document.querySelector("[data-retry]");
if (problem) {
  const retry = async () => {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(30_000) });
      if (answer.status !== 503) return location.reload();
    } catch { /* the console itself is away */ }
    setTimeout(retry, problem.dataset.retry * 1000);
  };
  setTimeout(retry, problem.dataset.retry * 1000);
}
