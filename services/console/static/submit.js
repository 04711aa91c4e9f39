// The form of a job: a file that is dropped becomes its text, a release that is chosen shows its form at once, and
// nothing is sent without a session.

for (const area of document.querySelectorAll("[data-drop]")) {
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("drop", async (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    area.value = await file.text();
  });
}

for (const select of document.querySelectorAll("[data-submits]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

// Without a session, what was typed would be lost. One that has begun meanwhile, in another tab, has another token.
async function send(event) {
  event.preventDefault();
  const { target: form, submitter } = event;
  const answer = await fetch("/submit", { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(30_000) }).catch(() => undefined);
  if (!answer?.ok) {
    document.querySelector("#notice").textContent = answer?.status === 401
      ? "Your session has ended. Sign in in another tab, then send this again."
      : "The console does not answer. Nothing was sent; try again.";
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  form.elements.csrf.value = page.querySelector("[name=csrf]").value;
  form.removeEventListener("submit", send);
  form.requestSubmit(submitter);
}

document.querySelector(".form")?.addEventListener("submit", send);
