// Numbers and images as they are made: an event says that a job has changed, and the parts of the page that show it are
// asked for again. Each connection begins with the present state, so nothing is missed. Only a tab that is seen has one:
// a browser opens six to a host, and further tabs would wait for ever.

const PAUSE_MS = 700, RETRY_MS = 5_000, REOPEN_MS = 30_000;
const SILENT_MS = 60_000; // the server says something every 15 s; less means a connection that died, as in a sleep
const known = new Map([...document.querySelectorAll("[data-shown]")].map((part) => [part.dataset.live, part.dataset.shown]));
const notice = document.querySelector("#notice");
const INTERRUPTED = "Live updates are interrupted. Trying again.";
let news, heardAt, isStale = false, isWaiting = false, hasEnded = false;

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(30_000) });
  if (answer.status === 401 || answer.status === 404) return end(answer.status);
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live][id]")) {
    const replacement = fresh.getElementById(part.id);
    if (replacement) replace(part, replacement);
  }
  document.dispatchEvent(new CustomEvent("fresh", { detail: fresh }));
  if (!watched().length) close();
}

// The focus stays where it is, on the link or the button that does the same. What is typed stays until it is left.
function replace(part, replacement) {
  const focused = document.activeElement;
  if (!part.contains(focused)) return part.replaceWith(replacement);
  if (focused.matches("input")) {
    focused.onblur = () => refreshIn(0);
    return;
  }
  const does = (one) => one.href ?? one.form?.action;
  const same = [...replacement.querySelectorAll("a, button")].find((one) => does(one) === does(focused));
  part.replaceWith(replacement);
  same?.focus({ preventScroll: true });
}

// One at a time: a slow server is not asked again before it has answered.
async function refreshIn(wait) {
  isStale = true;
  if (isWaiting) return;
  isWaiting = true;
  while (isStale && !hasEnded) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    isStale = false;
    wait = PAUSE_MS;
    await refresh().catch(() => { isStale = true; wait = RETRY_MS; });
  }
  isWaiting = false;
}

function end(status) {
  hasEnded = true;
  close();
  document.dispatchEvent(new CustomEvent("refused", { detail: status }));
}

const watched = () => [...new Set([...document.querySelectorAll("[data-live]")].map((part) => part.dataset.live))].slice(0, 64);

function hear() {
  heardAt = Date.now();
  if (notice.textContent === INTERRUPTED) notice.textContent = "";
}

function close() {
  news?.close();
  news = undefined;
}

function open() {
  close();
  const jobs = watched();
  if (!jobs.length || hasEnded || document.visibilityState === "hidden") return;
  heardAt = Date.now();
  news = new EventSource(`/events?${new URLSearchParams(jobs.map((id) => ["job", id]))}`);
  news.addEventListener("open", hear);
  news.addEventListener("still-here", hear);
  news.addEventListener("again", open); // in time: a session that has ended opens no other
  news.addEventListener("job", ({ data }) => {
    hear();
    const { id, state, revision, total, succeeded, failed } = JSON.parse(data);
    const told = [state, revision, total, succeeded, failed].join(" ");
    const isNew = known.get(id) !== told; // the first may be, too: of a change since the page was made
    known.set(id, told);
    if (isNew) refreshIn(PAUSE_MS);
  });
  news.addEventListener("error", ({ target }) => {
    notice.textContent ||= INTERRUPTED;
    if (target.readyState !== EventSource.CLOSED) return;
    refreshIn(0); // which says why: there may be too many pages, or no session
    setTimeout(() => target === news && open(), REOPEN_MS);
  });
}

document.addEventListener("visibilitychange", open);
addEventListener("pageshow", ({ persisted }) => persisted && open());
addEventListener("pagehide", close);
setInterval(() => news && Date.now() - heardAt > SILENT_MS && open(), SILENT_MS / 4);
open();
