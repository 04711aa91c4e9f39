// In a gallery, the keys 1 to 5 rate the image that has the focus and lead to the next one; 0 removes a rating.

const gallery = document.querySelector(".gallery");
const STORED = 0; // the status of an answer that leads to another page, which is not asked for
const sending = new Map(); // the last rating of an image that is under way: the next one of this image comes after it

document.addEventListener("keydown", (event) => {
  const link = document.activeElement;
  if (!gallery?.contains(link) || !/^[0-5]$/.test(event.key) || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (localStorage.getItem("keys") === "off") return;
  const label = link.querySelector(".stars-label");
  if (!label) return;
  event.preventDefault();
  const before = label.textContent;
  label.textContent = "★".repeat(Number(event.key));
  const links = [...gallery.querySelectorAll("a")];
  links[links.indexOf(link) + 1]?.focus();
  const { pathname } = link;
  const sent = (sending.get(pathname) ?? Promise.resolve()).then(() => send(pathname, event.key));
  sending.set(pathname, sent);
  sent.then((status) => {
    if (status === STORED) return;
    document.dispatchEvent(new CustomEvent("refused", { detail: status }));
    if (sending.get(pathname) !== sent) return; // it was rated again
    label.textContent = before;
    link.focus();
  });
});

// Return STORED, the status of a refusal, or undefined without an answer. Leaving the page does not end it.
async function send(pathname, rating) {
  const body = new URLSearchParams({ csrf: gallery.dataset.csrf, rating });
  const options = { method: "POST", body, headers: { Accept: "application/json" }, keepalive: true, redirect: "manual" };
  try {
    return (await fetch(`${pathname}/rating`, { ...options, signal: AbortSignal.timeout(30_000) })).status;
  } catch {
    return undefined;
  }
}
