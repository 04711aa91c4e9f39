// In a gallery, the keys 1 to 5 rate the image that has the focus and lead to the next one; 0 removes a rating.

const gallery = document.querySelector(".gallery");

document.addEventListener("keydown", async (event) => {
  const link = document.activeElement;
  if (!gallery?.contains(link) || !/^[0-5]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (localStorage.getItem("keys") === "off") return;
  const label = link.querySelector(".stars-label");
  if (!label) return;
  event.preventDefault();
  const before = label.textContent;
  label.textContent = "★".repeat(Number(event.key));
  const links = [...gallery.querySelectorAll("a")];
  links[links.indexOf(link) + 1]?.focus();
  const fields = new URLSearchParams({ csrf: gallery.dataset.csrf, rating: event.key });
  try {
    const answer = await fetch(`${link.pathname}/rating`, { method: "POST", body: fields, headers: { Accept: "application/json" } });
    if (!answer.ok) throw answer;
  } catch (answer) {
    document.dispatchEvent(new CustomEvent("refused", { detail: answer.status }));
    label.textContent = before;
    link.focus();
  }
});
