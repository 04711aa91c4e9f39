// Numbers and images as they are made: an event says that a job has changed, and the parts of the page that show it are
// asked for again. EventSource reconnects by itself, and begins with the present state, so nothing is missed.

const jobs = [...new Set([...document.querySelectorAll("[data-live]")].map((part) => part.dataset.live))].slice(0, 64);
const PAUSE_MS = 700;
let waiting = false;

async function refresh() {
  waiting = false;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live][id]")) {
    const replacement = fresh.getElementById(part.id);
    if (replacement && !part.contains(document.activeElement)) part.replaceWith(replacement);
  }
  document.dispatchEvent(new CustomEvent("fresh", { detail: fresh }));
}

if (jobs.length) {
  const news = new EventSource(`/events?${new URLSearchParams(jobs.map((id) => ["job", id]))}`);
  const known = new Map([...document.querySelectorAll("[data-shown]")].map((part) => [part.dataset.live, part.dataset.shown]));
  news.addEventListener("job", ({ data }) => {
    const { id, state, revision, total, succeeded, failed } = JSON.parse(data);
    const told = [state, revision, total, succeeded, failed].join(" ");
    const isNew = known.get(id) !== told; // the first may be, too: of a change since the page was made
    known.set(id, told);
    if (!isNew || waiting) return;
    waiting = true;
    setTimeout(() => refresh().catch(() => {}), PAUSE_MS);
  });
  addEventListener("pagehide", () => news.close());
}
