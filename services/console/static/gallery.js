// Scrolling through a job of any size: the next page is added before its link is seen, and pages that are far away are
// emptied, so that the memory of the browser stays bounded. Without this script, the links lead from page to page.

const NEAR = "1500px", FAR = "6000px";
const PATIENCE = 30_000; // ms for an answer: one that was lost on the way never comes
const gallery = document.querySelector(".gallery");

async function load(address) {
  const answer = await fetch(address, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw answer;
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// After an outage; not where the session has ended, or the job is gone.
function later(answer, again) {
  if (answer.status === 401 || answer.status === 404) document.dispatchEvent(new CustomEvent("refused", { detail: answer.status }));
  else setTimeout(again, 2000);
}

const nextLink = (page) => page.querySelector('main a[rel="next"]')?.closest("nav");

// -- further pages --

// A busy browser reports several changes at once: the last one is how it is.
const end = new IntersectionObserver(async (entries) => {
  const { target: link, isIntersecting } = entries.at(-1);
  if (!isIntersecting || !link.isConnected) return;
  end.unobserve(link);
  try {
    const page = await load(link.querySelector("a").href);
    const grid = page.querySelector(".grid");
    gallery.append(grid);
    far.observe(grid);
    const following = nextLink(page);
    if (following) {
      link.replaceWith(following);
      end.observe(following);
    } else link.remove();
  } catch (answer) {
    later(answer, () => end.observe(link));
  }
}, { rootMargin: NEAR });

// -- pages that are far away --

const far = new IntersectionObserver((entries) => {
  const last = new Map(entries.map(({ target, isIntersecting }) => [target, isIntersecting]));
  for (const [target, isNear] of last) isNear ? fill(target) : empty(target);
}, { rootMargin: FAR });

function empty(grid) {
  if (!grid.childElementCount || grid.contains(document.activeElement)) return;
  grid.style.minHeight = `${grid.offsetHeight}px`;
  grid.replaceChildren();
}

async function fill(grid) {
  if (grid.childElementCount) return;
  try {
    const page = await load(grid.dataset.page);
    grid.replaceChildren(...page.querySelector(".grid").children);
    grid.style.minHeight = "";
  } catch (answer) {
    later(answer, () => fill(grid));
  }
}

// -- images that were just made --

const isSeen = (grid) => grid.getBoundingClientRect().bottom > 0 && grid.getBoundingClientRect().top < innerHeight;
const numberOf = (image) => Number(image.id.split("-")[1]);

// Workers end out of order: images come between those that are seen, too, and not only after the last one.
document.addEventListener("fresh", () => {
  const grids = [...gallery.querySelectorAll(".grid")];
  for (const grid of grids) if (grid === grids.at(-1) || isSeen(grid)) complete(grid);
});

async function complete(grid) {
  const page = await load(grid.dataset.page).catch(() => undefined); // the next event tries again
  if (!page?.querySelector(".grid li")) return;
  document.querySelector(".empty")?.remove();
  for (const image of [...page.querySelectorAll(".grid li")]) {
    if (document.getElementById(image.id)) continue;
    const later = [...grid.children].find((other) => numberOf(other) > numberOf(image));
    grid.insertBefore(image, later ?? null);
  }
  const link = nextLink(page);
  if (link && !nextLink(document) && grid === gallery.lastElementChild) {
    gallery.after(link);
    end.observe(link);
  }
}

// -- back from an image to its place --

gallery?.addEventListener("click", ({ target }) => {
  const image = target.closest("li");
  if (image) history.replaceState(null, "", `${image.parentElement.dataset.page}#${image.id}`);
});

if (gallery) {
  for (const grid of gallery.querySelectorAll(".grid")) far.observe(grid);
  const link = nextLink(document);
  if (link) end.observe(link);
}
