// The form of a job: a file that is dropped becomes its text, a release that is chosen shows its form at once, and
// nothing is sent without a session.

const MOST_BYTES = 16_000_000; // of a form: the server reads little more, and what was typed would be lost
const TOO_LARGE = "This is larger than 16 MB. Nothing was sent; use darkroom jobs submit with an input_uri.";
const say = (words) => { document.querySelector("#notice").textContent = words; };

for (const area of document.querySelectorAll("[data-drop]")) {
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("drop", async (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    if (file.size > MOST_BYTES) return say(TOO_LARGE);
    try {
      area.value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      say("");
    } catch {
      say("This file is not UTF-8. Save it as UTF-8.");
    }
  });
}

for (const select of document.querySelectorAll("[data-submits]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

// Without a session, what was typed would be lost. One that has begun meanwhile, in another tab, has another token.
let isPermitted = false;

async function send(event) {
  if (isPermitted) {
    isPermitted = false; // who comes back to this page is asked again
    return;
  }
  event.preventDefault();
  const { target: form, submitter } = event;
  const sizes = [...new FormData(form).values()].map((value) => value.size ?? new Blob([value]).size);
  if (sizes.reduce((all, one) => all + one, 0) > MOST_BYTES) return say(TOO_LARGE);
  const answer = await fetch("/submit", { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(30_000) }).catch(() => undefined);
  if (!answer?.ok) {
    return say(answer?.status === 401
      ? "Your session has ended. Sign in in another tab, then send this again."
      : "The console does not answer. Nothing was sent; try again.");
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  form.elements.csrf.value = page.querySelector("[name=csrf]").value;
  isPermitted = true;
  form.requestSubmit(submitter);
}

document.querySelector(".form")?.addEventListener("submit", send);
